//! A reference to a VM, to use it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::Instrument as _;
use tracing::instrument::Instrumented;

use crate::vm::checkpoint::{self, CheckpointError, CheckpointOptions};
use crate::vm::exit_reason::ExitReason;
use crate::vm::guest::{
    Command, CommandId, FileReader, FileWriter, Files, GuestError, KnownCommand, Output,
    PortStream, Position, Running, TerminalSize,
};
use crate::vm::identity::VmIdentity;
use crate::vm::instance::{Instance, VmError};
use crate::vm::lifecycle::{Request, State};
use crate::vm::snapshot::Snapshot;
use crate::vm::vm_id::VmId;
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{Exit, VmmError};

/// A reference to a VM, to use, pause or end it. Cheap to clone. Keeps nothing alive: the VM ends
/// with its [`VmHandle`](super::VmHandle).
#[derive(Clone)]
pub struct VmClient(pub(crate) Arc<Instance>);

/// The way in which a [stopped](VmClient::stop) VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// The guest has synced its disks and powered off.
    PoweredOff,
    /// It was killed: the grace period was over, or the guest could not be asked.
    Killed,
}

impl fmt::Debug for VmClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmClient")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("state", &self.state())
            .finish()
    }
}

impl VmClient {
    /// Runs something in the VM's span.
    fn within<F: Future>(&self, work: F) -> Instrumented<F> {
        work.instrument(self.0.span.clone())
    }

    /// Returns its id, which no other VM has or will have.
    #[must_use]
    pub fn id(&self) -> VmId {
        self.0.id
    }

    /// Returns the name it was spawned under, which others may have, too.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.leased().map_or("", |lease| &lease.name)
    }

    /// Returns by what its guest knows itself, for [`Pool::resume`](super::Pool::resume); `None` of a VM
    /// that was not handed out.
    #[must_use]
    pub fn identity(&self) -> Option<VmIdentity> {
        Some((&self.0.leased()?.identity).into())
    }

    /// Returns the process id of its VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.process.pid()
    }

    /// Returns whether its VMM is jailed as `jail=on` asks for: with namespaces and a root directory
    /// of its own. One that is confined otherwise, by Landlock or filters of system calls alone, is
    /// not.
    #[must_use]
    pub fn is_jailed(&self) -> bool {
        self.0.is_jailed
    }

    /// Returns its state at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// Returns the time since it was handed out.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0
            .leased()
            .map_or(Duration::ZERO, |lease| lease.since.elapsed())
    }

    /// Runs a command to its end and collects its output; without a [time limit](Command::timeout)
    /// that may take for ever. See [`Guest::exec`](super::guest::Guest::exec).
    ///
    /// # Errors
    /// As for [`Guest::exec`](super::guest::Guest::exec); [`GuestError::Closed`] has the reason of
    /// the VM's end. A command that fails is no error, see [`Output::status`].
    pub async fn exec(&self, command: impl Into<Command>) -> Result<Output, GuestError> {
        self.within(self.0.guest.exec(command)).await
    }

    /// Starts a command whose output is streamed; see [`Guest::start`](super::guest::Guest::start).
    ///
    /// # Errors
    /// As for [`Guest::start`](super::guest::Guest::start): it exceeds the protocol's limits, or
    /// the VM has ended.
    pub async fn start(&self, command: impl Into<Command>) -> Result<Running, GuestError> {
        self.within(self.0.guest.start(command)).await
    }

    /// The commands that the guest knows, whoever started them; see
    /// [`Guest::list`](super::guest::Guest::list).
    ///
    /// # Errors
    /// As for [`Guest::list`](super::guest::Guest::list).
    pub async fn list_commands(&self) -> Result<Vec<KnownCommand>, GuestError> {
        self.within(self.0.guest.list()).await
    }

    /// Listens to a command that was started elsewhere, or before this VM was copied; see
    /// [`Guest::attach`](super::guest::Guest::attach).
    ///
    /// # Errors
    /// As for [`Guest::attach`](super::guest::Guest::attach).
    pub async fn attach(&self, id: CommandId) -> Result<Running, GuestError> {
        self.within(self.0.guest.attach(id)).await
    }

    /// The same from some position of its output on; see
    /// [`Guest::attach_from`](super::guest::Guest::attach_from).
    ///
    /// # Errors
    /// As for [`Guest::attach_from`](super::guest::Guest::attach_from).
    pub async fn attach_from(
        &self,
        id: CommandId,
        position: Position,
    ) -> Result<Running, GuestError> {
        self.within(self.0.guest.attach_from(id, position)).await
    }

    /// Sends a signal to a command, whoever started it; see
    /// [`Guest::signal`](super::guest::Guest::signal).
    ///
    /// # Errors
    /// As for [`Guest::signal`](super::guest::Guest::signal).
    pub async fn signal_command(&self, id: CommandId, signal: i32) -> Result<(), GuestError> {
        self.within(self.0.guest.signal(id, signal)).await
    }

    /// Gives the terminal of a command another size, whoever started it; see
    /// [`Guest::resize`](super::guest::Guest::resize).
    ///
    /// # Errors
    /// As for [`Guest::resize`](super::guest::Guest::resize).
    pub async fn resize_command(
        &self,
        id: CommandId,
        size: TerminalSize,
    ) -> Result<(), GuestError> {
        self.within(self.0.guest.resize(id, size)).await
    }

    /// Kills a command with all that descends from it, whoever started it; see
    /// [`Guest::kill`](super::guest::Guest::kill).
    ///
    /// # Errors
    /// As for [`Guest::kill`](super::guest::Guest::kill).
    pub async fn kill_command(&self, id: CommandId) -> Result<(), GuestError> {
        self.within(self.0.guest.kill(id)).await
    }

    /// Writes a new file in the guest, which replaces whatever has its name, without a time limit; see
    /// [`Guest::put_file`](super::guest::Guest::put_file).
    ///
    /// # Errors
    /// As for [`Guest::put_file`](super::guest::Guest::put_file): the guest can't write it, or the VM
    /// ends meanwhile.
    pub async fn put_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        content: &[u8],
    ) -> Result<(), GuestError> {
        self.within(self.0.guest.put_file(path, mode, content))
            .await
    }

    /// Writes to a file in the guest in place, which keeps its owner, mode and links; see
    /// [`Guest::overwrite_file`](super::guest::Guest::overwrite_file).
    ///
    /// # Errors
    /// As for [`Guest::overwrite_file`](super::guest::Guest::overwrite_file): the guest can't write it,
    /// or the VM ends meanwhile.
    pub async fn overwrite_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        content: &[u8],
    ) -> Result<(), GuestError> {
        self.within(self.0.guest.overwrite_file(path, mode, content))
            .await
    }

    /// Reads a file of the guest of at most `limit` bytes, without a time limit; see
    /// [`Guest::get_file`](super::guest::Guest::get_file).
    ///
    /// # Errors
    /// As for [`Guest::get_file`](super::guest::Guest::get_file): it is larger, the guest can't read it,
    /// or the VM ends meanwhile.
    pub async fn get_file(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Vec<u8>, GuestError> {
        self.within(self.0.guest.get_file(path, limit)).await
    }

    /// Opens a file of the guest to read it as a stream, `AsyncRead`; see
    /// [`Guest::open_file`](super::guest::Guest::open_file).
    ///
    /// # Errors
    /// As for [`Guest::open_file`](super::guest::Guest::open_file).
    pub async fn open_file(&self, path: impl AsRef<Path>) -> Result<FileReader, GuestError> {
        self.within(self.0.guest.open_file(path)).await
    }

    /// Creates a file in the guest to write it as a stream, `AsyncWrite`; see
    /// [`Guest::create_file`](super::guest::Guest::create_file).
    ///
    /// # Errors
    /// As for [`Guest::create_file`](super::guest::Guest::create_file).
    pub async fn create_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<FileWriter, GuestError> {
        self.within(self.0.guest.create_file(path, mode)).await
    }

    /// Opens a file of the guest to overwrite it in place as a stream; see
    /// [`Guest::rewrite_file`](super::guest::Guest::rewrite_file).
    ///
    /// # Errors
    /// As for [`Guest::create_file`](super::guest::Guest::create_file).
    pub async fn rewrite_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<FileWriter, GuestError> {
        self.within(self.0.guest.rewrite_file(path, mode)).await
    }

    /// Connects to a TCP port on the guest's own loopback address, `AsyncRead` and `AsyncWrite`; see
    /// [`Guest::connect`](super::guest::Guest::connect).
    ///
    /// # Errors
    /// As for [`Guest::connect`](super::guest::Guest::connect): no program listens there, or the VM has
    /// ended.
    pub async fn connect(&self, port: u16) -> Result<PortStream, GuestError> {
        self.within(self.0.guest.connect(port)).await
    }

    /// Returns access to the guest's files: to list, look at, make, move and remove them, and to read
    /// and write parts and streams of them, as a user of choice.
    #[must_use]
    pub fn files(&self) -> Files<'_> {
        self.0.guest.files()
    }

    /// Waits for an answer of the agent, for at most `patience`.
    ///
    /// # Errors
    /// [`GuestError::NoAnswer`] if there is none in time, [`GuestError::Closed`] if the VM has ended.
    pub async fn ping(&self, patience: Duration) -> Result<(), GuestError> {
        self.within(self.0.guest.ping(patience)).await
    }

    /// Holds the guest with everything that runs in it: it uses no processor time, and requests
    /// wait. It keeps its memory, and its deadline still counts. Idempotent.
    ///
    /// # Errors
    /// [`VmError::Denied`] if it is being stopped, or over; [`VmError::Vmm`] if its VMM fails,
    /// which kills it.
    pub async fn pause(&self) -> Result<(), VmError> {
        self.within(self.0.ask(Request::Pause)).await
    }

    /// Releases a guest that is [paused](Self::pause), and sets its clock. Idempotent.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause), and [`VmError::Guest`] if the guest does not continue, which
    /// kills it.
    pub async fn resume(&self) -> Result<(), VmError> {
        self.within(self.0.ask(Request::Resume)).await
    }

    /// Writes the VM's memory and state, with all that runs in it, as a snapshot that can be restored any
    /// number of times, by [`Pool::fork`](super::Pool::fork). The guest is held meanwhile, and goes on;
    /// of its commands' output nothing is lost or doubled.
    ///
    /// The commands go on in each copy, too: [`list_commands`](Self::list_commands) and
    /// [`attach`](Self::attach) find them there.
    ///
    /// A checkpoint holds what the guest knew, secrets included. No pool takes it, and nothing deletes it
    /// before its time.
    ///
    /// # Errors
    /// [`CheckpointError`]. A VM whose state could not be written goes on, unless its guest can't be
    /// reached any more.
    pub async fn checkpoint(
        &self,
        options: CheckpointOptions,
    ) -> Result<Snapshot, CheckpointError> {
        self.within(checkpoint::take(&self.0, options)).await
    }

    /// Sets the time at which the VM is killed, in place of the one set before, by this or by
    /// [`Limits::max_lifetime`](super::Limits::max_lifetime); `None`: never.
    ///
    /// # Errors
    /// [`VmError::Denied`] if it is over.
    pub async fn set_deadline(&self, at: Option<Instant>) -> Result<(), VmError> {
        let at = at.map(tokio::time::Instant::from_std);
        self.within(self.0.ask(Request::SetDeadline(at))).await
    }

    /// Sets the idle time after which the VM is killed, counted from now; see
    /// [`Limits::idle`](super::Limits::idle). `None`: never.
    ///
    /// # Errors
    /// [`VmError::Denied`] if it is over.
    pub async fn set_idle_limit(&self, limit: Option<Duration>) -> Result<(), VmError> {
        self.within(self.0.ask(Request::SetIdle(limit))).await
    }

    /// Asks the guest to sync its disks and power off; kills it if it has not after `grace`, such
    /// as [`STOP_GRACE`](super::STOP_GRACE). Returns when it is gone. Releases a paused VM for
    /// that; does nothing to one that is over. Running commands end with it.
    ///
    /// # Errors
    /// [`VmmError::TimedOut`] if it was killed and the kernel takes too long to end it.
    pub async fn stop(&self, grace: Duration) -> Result<Stopped, VmmError> {
        let exited = self.0.process.exited();
        let asked = self.0.ask(Request::Stop { grace });
        // Does nothing to a VM that is over already.
        let stopped = async { tokio::join!(exited, asked) };
        let ended = timeout(grace.saturating_add(PROCESS_END_TIMEOUT), stopped).await;
        let (_exit, _asked) = ended.map_err(|_| VmmError::TimedOut {
            operation: "end after it was killed",
            after: PROCESS_END_TIMEOUT,
        })?;
        // The task may not have been told yet.
        self.0.is_gone(ExitReason::Stopped);
        Ok(match self.0.was_killed() {
            true => Stopped::Killed,
            false => Stopped::PoweredOff,
        })
    }

    /// Kills the VM, whatever it does, without waiting. Requests fail with
    /// [`ExitReason::Destroyed`].
    pub fn kill(&self) {
        self.0.end(ExitReason::Destroyed);
    }

    /// Resolves to the reason when the VM is over; at once if it is already.
    pub async fn wait(&self) -> ExitReason {
        let mut states = self.0.watch();
        let gone = states.wait_for(|state| matches!(state, State::Gone(_)));
        let reason = match gone.await.as_deref() {
            Ok(State::Gone(reason)) => Some(reason.clone()),
            _ => None,
        };
        match reason {
            Some(reason) => reason,
            // Never: the sender lives in the instance.
            None => std::future::pending().await,
        }
    }

    /// Resolves when the VM's process has ended and its resources on the host are cleaned up.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        self.0.process.exited()
    }
}
