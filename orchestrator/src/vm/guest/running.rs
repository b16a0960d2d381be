//! A running command.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{Outcome, RequestId, Stream, TerminalSize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::command::{ExitStatus, MAX_COLLECTED, Output};
use super::connection::Ticket;
use super::error::{GuestError, Printed};
use super::inbox::{Arrival, Position};
use super::known::CommandId;
use super::line::Line;
use super::open::Leave;
use crate::untrusted;

/// Time that a guest gets beyond a command's own time limit to kill it and report that, which takes
/// it milliseconds: the limit holds to within a second, whatever the guest does.
const KILL_GRACE: Duration = Duration::from_millis(900);

/// An open request. Dropping it before its end cancels it in the guest, or detaches from it.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: Ticket,
    over: bool,
    leave: Leave,
}

impl Pending {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self {
            ticket,
            over: false,
            leave: Leave::Cancel,
        }
    }

    /// Keeps a drop from ending anything in the guest.
    pub(super) fn keep(&mut self) {
        self.leave = Leave::Detach;
    }

    pub(super) async fn next(&mut self) -> Result<Arrival, GuestError> {
        let (arrival, taken) = self.ticket.inbox.next().await;
        if let Some(taken) = taken {
            self.ticket.line.taken(self.ticket.id, taken);
        }
        let goes_on = matches!(
            arrival,
            Ok(Arrival::Data(..) | Arrival::Attached | Arrival::Opened | Arrival::ContentEnded)
        );
        if !goes_on {
            self.over = true;
        }
        arrival
    }

    /// The end of a request without output.
    pub(super) async fn outcome(&mut self) -> Result<Outcome, GuestError> {
        loop {
            if let Arrival::Done(outcome) = self.next().await? {
                return match outcome {
                    Outcome::Failed(failure) => Err(failure.into()),
                    outcome => Ok(outcome),
                };
            }
        }
    }

    pub(super) fn writer(&self) -> StdinWriter {
        StdinWriter {
            id: self.ticket.id,
            credit: Arc::clone(&self.ticket.credit),
            wanted: Arc::clone(&self.ticket.wanted),
            line: Arc::clone(&self.ticket.line),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.over {
            self.ticket.line.leave(self.ticket.id, self.leave);
        }
    }
}

/// A command that runs in a guest. Dropping it before its end kills it with all its descendants,
/// even those that left its process group or session; unless it is to be
/// [kept](super::Command::keep).
///
/// The command belongs to the guest, not to the connection over which it was started: it continues
/// when that is lost, as with a snapshot, and its output comes, once, over the next one.
///
/// A command ends with its main process. Processes left in the background live on until the VM's
/// end; their output is waited for while more of it comes, but for half a second of silence and two
/// seconds in all.
#[derive(Debug)]
#[must_use = "a command is killed when its handle is dropped"]
pub struct Running {
    id: CommandId,
    pending: Pending,
    stdin: Option<StdinWriter>,
    deadline: Option<Deadline>,
    /// Limit of what is collected of its output.
    pub(super) max_output: u64,
}

/// The time by which a guest must have done a request with a time limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// Creates it for a request that may take `limit` from now.
    pub(super) fn after(limit: Duration) -> Option<Self> {
        let after = limit.checked_add(KILL_GRACE)?;
        let at = Instant::now().checked_add(after)?;
        Some(Self { at, after })
    }
}

/// Returns the result of `work`, which must come by then, if there is a limit.
pub(super) async fn within<T>(
    deadline: Option<Deadline>,
    operation: &'static str,
    work: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, GuestError> {
    let Some(Deadline { at, after }) = deadline else {
        return work.await;
    };
    let late = |_| GuestError::NoAnswer { operation, after };
    timeout_at(at, work).await.map_err(late)?
}

/// An event of a running command.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecEvent {
    /// Output on standard output.
    Stdout(Vec<u8>),
    /// Output on standard error.
    Stderr(Vec<u8>),
    /// The end, after all output.
    Ended(ExitStatus),
}

/// Without the output, which may be secret, or large.
impl fmt::Debug for ExecEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout(bytes) => write!(f, "Stdout({} bytes)", bytes.len()),
            Self::Stderr(bytes) => write!(f, "Stderr({} bytes)", bytes.len()),
            Self::Ended(status) => f.debug_tuple("Ended").field(status).finish(),
        }
    }
}

impl Running {
    pub(super) fn new(
        id: CommandId,
        pending: Pending,
        has_stdin: bool,
        limit: Option<Duration>,
    ) -> Self {
        let stdin = has_stdin.then(|| pending.writer());
        Self {
            id,
            pending,
            stdin,
            deadline: limit.and_then(Deadline::after),
            max_output: MAX_COLLECTED,
        }
    }

    /// Returns the next event. After [`ExecEvent::Ended`] it returns the same again. Cancel-safe.
    ///
    /// # Errors
    /// [`GuestError::Failed`] if the command could not be started, [`GuestError::Closed`] if the VM
    /// or the session ended, [`GuestError::NoAnswer`] if the guest does not end it within a second of
    /// its time limit.
    pub async fn next(&mut self) -> Result<ExecEvent, GuestError> {
        let operation = "end a command at its time limit";
        let arrival = loop {
            match within(self.deadline, operation, self.pending.next()).await? {
                // A lost connection; no output is lost.
                Arrival::Attached => {}
                arrival => break arrival,
            }
        };
        Ok(match arrival {
            Arrival::Data(Stream::Stderr, bytes) => ExecEvent::Stderr(bytes),
            Arrival::Data(_, bytes) => ExecEvent::Stdout(bytes),
            Arrival::Done(Outcome::Exited(code)) => ExecEvent::Ended(ExitStatus::Code(code)),
            Arrival::Done(Outcome::Signaled(signal)) => {
                ExecEvent::Ended(ExitStatus::Signal(signal))
            }
            Arrival::Done(Outcome::TimedOut) => ExecEvent::Ended(ExitStatus::TimedOut),
            Arrival::Done(Outcome::Failed(failure)) => return Err(failure.into()),
            Arrival::Done(Outcome::Detached) => return Err(GuestError::TakenOver),
            other => {
                return Err(GuestError::WrongAnswer {
                    operation: "a command",
                    answer: untrusted::line(&format!("{other:?}")),
                });
            }
        })
    }

    /// Waits until the guest has found the command to attach to.
    pub(super) async fn attached(mut self) -> Result<Self, GuestError> {
        match self.pending.next().await? {
            Arrival::Attached => {
                self.stdin = Some(self.pending.writer()).filter(StdinWriter::is_open);
                Ok(self)
            }
            Arrival::Done(Outcome::Failed(failure)) => Err(failure.into()),
            other => Err(GuestError::WrongAnswer {
                operation: "a command to listen to",
                answer: untrusted::line(&format!("{other:?}")),
            }),
        }
    }

    /// Returns the command's id in its guest, for [`Guest::attach`](super::Guest::attach).
    #[must_use]
    pub fn id(&self) -> CommandId {
        self.id
    }

    /// Returns the position of the output returned by [`next`](Self::next):
    /// [`Guest::attach_from`](super::Guest::attach_from) continues there, also in a copy of the
    /// guest that was made before more was returned.
    #[must_use]
    pub fn position(&self) -> Position {
        self.pending.ticket.inbox.taken()
    }

    /// Returns how many bytes of its output the guest no longer had: it keeps the last bytes only
    /// of a command without a listener for long.
    #[must_use]
    pub fn missed(&self) -> Position {
        self.pending.ticket.inbox.missed()
    }

    /// Detaches, and lets the command continue. One that is not to be [kept](super::Command::keep)
    /// ends when nobody listens for half a minute.
    pub fn detach(mut self) -> CommandId {
        self.pending.keep();
        self.id
    }

    /// Returns the command's standard input once, if it was [piped](super::Command::stdin_piped).
    pub fn take_stdin(&mut self) -> Option<StdinWriter> {
        self.stdin.take()
    }

    /// Signals the command's process group (Linux number, 1 to 31). [`next`](Self::next) shows the
    /// effect: a command that handles it continues, or ends with a code of its own. Signalling one
    /// that has ended is no error. Never waits.
    ///
    /// # Errors
    /// [`GuestError::Invalid`] for another number; [`GuestError::Closed`] if the session is over.
    pub fn signal(&self, signal: i32) -> Result<(), GuestError> {
        let Ticket { id, line, .. } = &self.pending.ticket;
        line.signal(*id, signal)
    }

    /// Gives the command's [terminal](super::Command::pty) another size, of which the programs on it
    /// learn. Without a terminal it has no effect. Never waits.
    ///
    /// # Errors
    /// [`GuestError::Closed`] if the session is over.
    pub fn resize(&self, size: TerminalSize) -> Result<(), GuestError> {
        let Ticket { id, line, .. } = &self.pending.ticket;
        line.resize(*id, size)
    }

    /// Returns whether the guest ran out of memory and its kernel killed a process of the command
    /// for it. Known when the command has ended.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        self.pending.ticket.inbox.out_of_memory()
    }

    /// Waits for the end, and discards the output until then.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn wait(mut self) -> Result<ExitStatus, GuestError> {
        // Closes standard input: nobody else can write to it.
        drop(self.stdin.take());
        loop {
            if let ExecEvent::Ended(status) = self.next().await? {
                return Ok(status);
            }
        }
    }

    /// Waits for the end and collects the output, up to [`Command::max_output`](super::Command::max_output).
    ///
    /// # Errors
    /// As for [`next`](Self::next), with the output until then in [`GuestError::Closed`]; and
    /// [`GuestError::TooMuchOutput`], after which the command is killed.
    pub async fn output(mut self) -> Result<Output, GuestError> {
        // Closes standard input: nobody else can write to it.
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next().await {
                Err(GuestError::Closed { reason, .. }) => {
                    let printed = Printed { stdout, stderr };
                    return Err(GuestError::Closed { reason, printed });
                }
                Err(error) => return Err(error),
                Ok(ExecEvent::Stdout(bytes)) => stdout.extend_from_slice(&bytes),
                Ok(ExecEvent::Stderr(bytes)) => stderr.extend_from_slice(&bytes),
                Ok(ExecEvent::Ended(status)) => {
                    return Ok(Output {
                        status,
                        stdout,
                        stderr,
                        out_of_memory: self.out_of_memory(),
                    });
                }
            }
            if (stdout.len() + stderr.len()) as u64 > self.max_output {
                return Err(GuestError::TooMuchOutput {
                    limit: self.max_output,
                });
            }
        }
    }
}

/// The standard input of a running command. Dropping it closes the input.
#[derive(Debug)]
pub struct StdinWriter {
    id: RequestId,
    credit: Arc<Semaphore>,
    wanted: Arc<Semaphore>,
    line: Arc<Line>,
}

impl StdinWriter {
    pub(super) fn is_open(&self) -> bool {
        !self.credit.is_closed()
    }

    /// Resolves when the command waits for input and has read everything written, or soon after; to
    /// `false` when it takes none any more, because it has ended or its [`Running`] was dropped.
    /// For input that others would read if the command does not. Cancel-safe.
    ///
    /// # Errors
    /// [`GuestError::Closed`] if the session is over.
    pub async fn wanted(&mut self) -> Result<bool, GuestError> {
        self.line.await_reader(self.id)?;
        let told = self.wanted.acquire().await;
        Ok(told.map(SemaphorePermit::forget).is_ok())
    }

    /// Writes all of `bytes`, as fast as the command reads them.
    ///
    /// Returns early, without an error, when the command has ended or its [`Running`] was dropped;
    /// [`Running::next`] tells how.
    ///
    /// # Errors
    /// [`GuestError::Closed`] if the session ended meanwhile.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), GuestError> {
        for chunk in bytes.chunks(MAX_CHUNK) {
            let want = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let Ok(credit) = self.credit.acquire_many(want).await else {
                return Ok(());
            };
            if !self.line.has_room(&self.credit).await {
                return Ok(());
            }
            credit.forget();
            self.line.give(self.id, chunk)?;
        }
        Ok(())
    }
}

impl Drop for StdinWriter {
    fn drop(&mut self) {
        if self.is_open() {
            self.line.end_content(self.id);
        }
    }
}
