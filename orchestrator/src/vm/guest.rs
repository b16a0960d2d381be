//! The host's side of the protocol: commands, files, and a clone's identity.
//!
//! Guests are hostile. Every message is checked against the protocol's limits before it is used;
//! the first violation ends the connection, and each request's window bounds the memory.

mod activity;
mod archive_reader;
mod archive_writer;
mod changes;
mod chunk;
mod command;
mod connection;
#[cfg(test)]
mod debug_tests;
pub(crate) mod defaults;
mod dispatch;
mod error;
mod events;
mod file_attributes;
mod file_content;
mod file_info;
#[cfg(test)]
mod file_requests_tests;
mod file_streams;
#[cfg(test)]
mod file_streams_tests;
mod file_transfer;
mod file_watch;
#[cfg(test)]
mod file_watch_tests;
mod files;
mod inbox;
mod known;
mod line;
mod listing;
mod open;
mod pace;
#[cfg(test)]
pub(crate) mod peer;
mod port_stream;
#[cfg(test)]
mod reconnect_tests;
mod running;
mod streams;
#[cfg(test)]
mod tests;
mod upload;
mod wire;
mod write_options;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ironclaw_protocol::message::{Attach, Existing, Outcome, Request, SetIdentity};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::vm::exit_reason::ExitReason;
use crate::vm::vmm::VmmProcess;

pub(crate) use activity::Activity;
pub use archive_reader::{ArchiveReader, ArchiveSummary};
pub use archive_writer::{ArchiveWriter, ExtractSummary};
pub use changes::{ChangeListing, FileChange};
pub use command::{Command, ExitStatus, MAX_COLLECTED, Output};
pub use error::{GuestError, Printed};
pub use events::Events;
pub use file_info::FileInfo;
pub use file_streams::{FileReader, FileWriter};
pub use file_watch::{FileEvent, FileEvents, FileWatch};
pub use files::Files;
pub use inbox::Position;
pub use ironclaw_protocol::file::{ChangeKind, EventKind as FileEventKind, FileKind, Owners};
pub use ironclaw_protocol::frame::FrameError;
pub use ironclaw_protocol::message::{FailureKind, OutOfBounds, TerminalSize};
pub use known::{CommandId, KnownCommand};
pub use listing::Listing;
pub use port_stream::PortStream;
pub use running::{ExecEvent, Running, StdinWriter};
pub use streams::{InputStream, OutputStream, Streams};
pub use write_options::WriteOptions;

use command::Stdin;
use connection::Connection;
use defaults::Defaults;
use file_transfer::wrong;
use running::{Deadline, Pending, within};

/// Timeout of a guest's answers about its commands.
const COMMANDS_TIMEOUT: Duration = Duration::from_secs(15);

/// The agent in a guest, at the other end of a byte stream. Handles any number of concurrent
/// requests.
#[derive(Debug)]
pub struct Guest {
    connection: Connection,
    defaults: Defaults,
}

impl Guest {
    /// Starts a session on `stream`. The guest need not run yet; requests wait for it.
    ///
    /// # Errors
    /// [`GuestError::Closed`] if the stream is unusable.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: tasks read and write the stream.
    pub fn open(stream: UnixStream) -> Result<Self, GuestError> {
        Ok(Self {
            connection: Connection::open(stream, None)?,
            defaults: Defaults::default(),
        })
    }

    /// Starts a session with the agent of the VM in `process`: if that ends, waiting requests fail
    /// with the reason and the last output.
    pub(crate) fn of(process: &dyn VmmProcess, stream: UnixStream) -> Result<Self, GuestError> {
        Ok(Self {
            connection: Connection::open(stream, Some(process.died()))?,
            defaults: Defaults::default(),
        })
    }

    /// Sets what its template says of commands that do not say otherwise.
    pub(crate) fn with_defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// Asks all commands that run to end, by the signal that their template has for it; returns when none
    /// runs any more. Does nothing where a template has none.
    pub(crate) async fn end_commands(&self) -> Result<(), GuestError> {
        /// A guest tells the ends of commands to their listeners alone, so it is asked again.
        const INTERVAL: Duration = Duration::from_millis(20);
        let Some(signal) = self.defaults.stop_signal else {
            return Ok(());
        };
        let mut asked = BTreeSet::new();
        loop {
            let known = self.list().await?.into_iter();
            let running: Vec<_> = known
                .filter(|it| it.end.is_none())
                .map(|it| it.id)
                .collect();
            if running.is_empty() {
                return Ok(());
            }
            for id in running.into_iter().filter(|id| asked.insert(*id)) {
                // It may have ended meanwhile.
                let _ = self.signal(id, signal).await;
            }
            sleep(INTERVAL).await;
        }
    }

    /// Asks the guest to power off; returns when it is about to.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub(crate) async fn shut_down(&self) -> Result<(), GuestError> {
        match self.pending(Request::Shutdown).await?.outcome().await? {
            Outcome::ShuttingDown => Ok(()),
            other => Err(wrong("to power off", &other)),
        }
    }

    /// Ends the session; requests fail for this reason.
    pub(crate) fn close(&self, reason: &ExitReason) {
        self.connection.close(reason);
    }

    /// Sets the reason of the session's end, whoever will end it.
    pub(crate) fn expect_end(&self, reason: &ExitReason) {
        self.connection.expect_end(reason);
    }

    /// Sends nothing from now on, and ignores the end of the stream: for callers that are about to
    /// lose it. Requests wait for [`reconnect`](Self::reconnect), or for the end of the VM.
    pub fn suspend(&self) {
        self.connection.suspend();
    }

    /// Continues over another stream to the same guest, whether this was [suspended](Self::suspend)
    /// or not. Commands continue without a byte lost or doubled, and other requests are repeated:
    /// callers notice nothing. Must happen in time: a guest without a host for half a minute ends
    /// the commands that are not to be [kept](Command::keep).
    ///
    /// # Errors
    /// [`GuestError::Closed`] if the VM, or the session, has ended.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: tasks read and write the stream.
    pub fn reconnect(&self, stream: UnixStream) -> Result<(), GuestError> {
        self.connection.reconnect(stream)
    }

    /// Returns whether any request is open.
    pub(crate) fn activity(&self) -> Activity {
        self.connection.activity()
    }

    async fn pending(&self, request: Request) -> Result<Pending, GuestError> {
        Ok(Pending::new(
            self.connection.connector().request(request).await?,
        ))
    }

    async fn ask(
        &self,
        operation: &'static str,
        request: Request,
        patience: Duration,
    ) -> Result<Outcome, GuestError> {
        timeout(patience, async {
            self.pending(request).await?.outcome().await
        })
        .await
        .map_err(|_| GuestError::NoAnswer {
            operation,
            after: patience,
        })?
    }

    /// Waits for an answer of the agent, for at most `patience`.
    ///
    /// # Errors
    /// [`GuestError::NoAnswer`] if there is none in time; [`GuestError::Closed`] if the VM has
    /// ended, or the session with it.
    pub async fn ping(&self, patience: Duration) -> Result<(), GuestError> {
        match self.ask("answer", Request::Ping, patience).await? {
            Outcome::Pong => Ok(()),
            other => Err(wrong("a ping", &other)),
        }
    }

    /// Gives the guest entropy, time and identity, and waits until they are in force, for at most
    /// `patience`.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping), and [`GuestError::Failed`] if the agent could not apply them;
    /// the guest must not be used then.
    pub async fn set_identity(
        &self,
        new: SetIdentity,
        patience: Duration,
    ) -> Result<(), GuestError> {
        match self
            .ask("take its new identity", Request::SetIdentity(new), patience)
            .await?
        {
            Outcome::IdentitySet => Ok(()),
            other => Err(wrong("a new identity", &other)),
        }
    }

    /// Starts a command; its output comes through [`Running::next`]. It may run as long as the VM
    /// lives unless it has a [time limit](Command::timeout).
    ///
    /// # Errors
    /// [`GuestError::Invalid`] if Linux would not accept the command: it is too large, or contains
    /// a NUL byte; [`GuestError::Closed`] if the VM has ended, or the session with it;
    /// [`GuestError::NoAnswer`] if the guest has as many requests as it can take and ends none of
    /// them within a second of the time limit. A missing program is reported by [`Running::next`].
    pub async fn start(&self, command: impl Into<Command>) -> Result<Running, GuestError> {
        let mut command = command.into().or(&self.defaults);
        let limit = command.time_limit();
        // Waits if the guest has as many requests as it can take, and it may end none of them.
        let id = CommandId::draw()?;
        let pending = self.pending(Request::Exec(command.to_exec(id.0)));
        let deadline = limit.and_then(Deadline::after);
        let mut pending = within(deadline, "take a command", pending).await?;
        if command.is_kept() {
            pending.keep();
        }
        let stdin = std::mem::replace(&mut command.stdin, Stdin::Empty);
        let mut running = Running::new(id, pending, !matches!(stdin, Stdin::Empty), limit);
        running.max_output = command.max_output;
        if let Stdin::Bytes(bytes) = stdin
            && let Some(mut writer) = running.take_stdin()
        {
            // In a task, because a command may print before it has read everything. The task ends
            // with the command, which closes its credit.
            tokio::spawn(async move { writer.write_all(&bytes).await });
        }
        Ok(running)
    }

    /// Runs a command to its end and collects its output, up to [`MAX_COLLECTED`] bytes. It may run
    /// as long as the VM lives unless it has a [time limit](Command::timeout).
    ///
    /// # Errors
    /// As for [`start`](Self::start) and [`Running::output`]: [`GuestError::Failed`] if the program
    /// does not exist or can't be run, [`GuestError::TooMuchOutput`], [`GuestError::NoAnswer`] if
    /// the guest does not end it at its time limit, [`GuestError::Closed`] if the VM ends
    /// meanwhile. A command that fails is no error, see [`Output::status`].
    pub async fn exec(&self, command: impl Into<Command>) -> Result<Output, GuestError> {
        self.start(command).await?.output().await
    }

    /// Lists the commands that the guest knows, in the order of their start: running ones, whoever
    /// started them, and ended ones whose end nobody asked for.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn list(&self) -> Result<Vec<KnownCommand>, GuestError> {
        let operation = "list its commands";
        match self.ask(operation, Request::List, COMMANDS_TIMEOUT).await? {
            Outcome::Commands(commands) => Ok(commands.into_iter().map(Into::into).collect()),
            other => Err(wrong("a list of its commands", &other)),
        }
    }

    /// Attaches to a command, from the oldest output that the guest has. An earlier listener gets
    /// [`GuestError::TakenOver`]. Dropping the returned value lets the command continue.
    ///
    /// # Errors
    /// [`GuestError::Failed`] if there is no such command, or no longer; else as for
    /// [`ping`](Self::ping).
    pub async fn attach(&self, id: CommandId) -> Result<Running, GuestError> {
        self.attach_from(id, Position::default()).await
    }

    /// Attaches at a position, or at the oldest output behind it that the guest has:
    /// [`Running::missed`] tells what lies between.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach); [`GuestError::Failed`] also if the command has not printed
    /// that much.
    pub async fn attach_from(
        &self,
        id: CommandId,
        position: Position,
    ) -> Result<Running, GuestError> {
        let Position { stdout, stderr } = position;
        let exec = id.0;
        let attach = Request::Attach(Attach {
            exec,
            stdout,
            stderr,
        });
        let attached = async {
            let mut pending = self.pending(attach).await?;
            pending.keep();
            Running::new(id, pending, false, None).attached().await
        };
        let attached = timeout(COMMANDS_TIMEOUT, attached).await;
        attached.map_err(|_| GuestError::NoAnswer {
            operation: "find a command",
            after: COMMANDS_TIMEOUT,
        })?
    }

    /// Signals the process group of a command (Linux number, 1 to 31), whoever started it.
    /// Signalling one that has ended is no error.
    ///
    /// # Errors
    /// [`GuestError::Invalid`] for another number; [`GuestError::Failed`] if there is no such command;
    /// else as for [`ping`](Self::ping).
    pub async fn signal(&self, id: CommandId, signal: i32) -> Result<(), GuestError> {
        let exec = id.0;
        let request = Request::Signal { exec, signal };
        self.deliver("signal a command", request).await
    }

    /// Kills a command with all its descendants, whoever started it.
    ///
    /// # Errors
    /// As for [`signal`](Self::signal).
    pub async fn kill(&self, id: CommandId) -> Result<(), GuestError> {
        let request = Request::Kill { exec: id.0 };
        self.deliver("kill a command", request).await
    }

    /// Gives the [terminal](Command::pty) of a command another size, whoever started it. One that has
    /// ended is no error.
    ///
    /// # Errors
    /// As for [`signal`](Self::signal), also if the command has no terminal.
    pub async fn resize(&self, id: CommandId, size: TerminalSize) -> Result<(), GuestError> {
        let exec = id.0;
        let request = Request::Resize { exec, size };
        self.deliver("resize a terminal", request).await
    }

    async fn deliver(&self, operation: &'static str, request: Request) -> Result<(), GuestError> {
        match self.ask(operation, request, COMMANDS_TIMEOUT).await? {
            Outcome::Delivered => Ok(()),
            other => Err(wrong("a signal", &other)),
        }
    }

    /// Writes a new file: `path` is absolute in the guest, and its directory exists; `mode` are its
    /// permission bits. It gets its name when it is complete, so nobody ever sees half of it. It
    /// may take any time while it progresses: a guest that takes nothing for half a minute is given
    /// up.
    ///
    /// The file is root's and replaces whatever had the name: a symbolic link is not followed;
    /// other names of a file (hard links) keep its old content; its owner and mode are lost. To
    /// keep them, see [`overwrite_file`](Self::overwrite_file).
    ///
    /// # Errors
    /// [`GuestError::Failed`] if the guest can't write it, like without the directory or space on
    /// its disk; [`GuestError::NoAnswer`] without progress; [`GuestError::Invalid`] if the path is
    /// none; [`GuestError::Closed`] if the VM ends meanwhile.
    pub async fn put_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        content: &[u8],
    ) -> Result<(), GuestError> {
        self.write_file(path.as_ref(), mode, Existing::Replaced, content)
            .await
    }

    /// Writes to a file in place, like a shell's `>`: it keeps its owner, mode and other names, and
    /// a symbolic link is followed. A missing file is created, with `mode` as permission bits.
    /// Readers may see a part meanwhile, which remains if this fails.
    ///
    /// # Errors
    /// As for [`put_file`](Self::put_file).
    pub async fn overwrite_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        content: &[u8],
    ) -> Result<(), GuestError> {
        self.write_file(path.as_ref(), mode, Existing::Overwritten, content)
            .await
    }

    async fn write_file(
        &self,
        path: &Path,
        mode: u32,
        existing: Existing,
        content: &[u8],
    ) -> Result<(), GuestError> {
        let options = WriteOptions {
            mode,
            existing,
            parents: false,
        };
        self.files().write(path, options, content).await
    }

    /// Reads a regular file, `path` in the guest, of at most `limit` bytes. It may take any time
    /// while it progresses: a guest that sends nothing for half a minute is given up.
    ///
    /// # Errors
    /// [`GuestError::TooMuchOutput`] if it is larger; [`GuestError::Failed`] if the guest can't
    /// read it; [`GuestError::NoAnswer`] without progress; [`GuestError::Invalid`] if the path is
    /// none; [`GuestError::Closed`] if the VM ends meanwhile.
    pub async fn get_file(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Vec<u8>, GuestError> {
        self.files().read(path, limit).await
    }

    /// Opens a regular file to read it as a stream, of whatever size.
    ///
    /// # Errors
    /// As for [`get_file`](Self::get_file), as far as they are known when the guest begins to send
    /// it.
    pub async fn open_file(&self, path: impl AsRef<Path>) -> Result<FileReader, GuestError> {
        self.files().reader(path, 0, None).await
    }

    /// Creates a file to write it as a stream, of whatever size: as [`put_file`](Self::put_file)
    /// does, it gets its name when it is complete.
    ///
    /// # Errors
    /// As for [`put_file`](Self::put_file); what the guest says of the path comes with the first
    /// bytes that it does not take, or with [`FileWriter::finish`].
    pub async fn create_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<FileWriter, GuestError> {
        self.file_writer(path.as_ref(), mode, Existing::Replaced)
            .await
    }

    /// Opens a file to overwrite it in place as a stream, as
    /// [`overwrite_file`](Self::overwrite_file) does.
    ///
    /// # Errors
    /// As for [`create_file`](Self::create_file).
    pub async fn rewrite_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<FileWriter, GuestError> {
        self.file_writer(path.as_ref(), mode, Existing::Overwritten)
            .await
    }

    async fn file_writer(
        &self,
        path: &Path,
        mode: u32,
        existing: Existing,
    ) -> Result<FileWriter, GuestError> {
        let options = WriteOptions {
            mode,
            existing,
            parents: false,
        };
        self.files().writer(path, options).await
    }

    /// Connects to a TCP port on the guest's own loopback address, IPv4 or else IPv6. The guest needs
    /// no network for that, and its programs can't tell the connection from one of their own.
    ///
    /// # Errors
    /// [`GuestError::Failed`] of kind [`FailureKind::Refused`] if no program listens there, of kind
    /// [`FailureKind::TooMany`] if there are 128 connections already, and [`FailureKind::Unsupported`]
    /// of a guest without TCP; [`GuestError::NoAnswer`] if it takes longer than 10 seconds; else as for
    /// [`ping`](Self::ping).
    pub async fn connect(&self, port: u16) -> Result<PortStream, GuestError> {
        PortStream::connect(&self.connection.connector(), port).await
    }

    /// Returns access to its files.
    #[must_use]
    pub fn files(&self) -> Files<'_> {
        Files::new(&self.connection)
    }
}
