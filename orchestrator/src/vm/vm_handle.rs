//! A VM in use.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio::time::timeout;

use crate::vm::guest::{Command, Guest, GuestError, Output, Running};
use crate::vm::limits::Limits;
use crate::vm::snapshot::Snapshot;
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{Exit, MicroVm};

/// Which tier served a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A paused clone was resumed.
    Warm,
    /// A snapshot was restored.
    Restored,
    /// The template was booted.
    #[serde(rename = "cold_boot")]
    ColdBooted,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warm => "warm",
            Self::Restored => "restored",
            Self::ColdBooted => "cold boot",
        })
    }
}

/// Where the time of a spawn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Timings {
    /// Waiting for room, and choosing a tier.
    pub queue: Duration,
    /// What higher tiers took before they failed.
    pub failed: Duration,
    /// Starting the VMM's process, until it took commands; zero for a warm clone, and where one
    /// stood by.
    pub start: Duration,
    /// Loading the snapshot and letting its processors run; zero for other tiers.
    pub load: Duration,
    /// Resuming a warm clone, until its VMM said so; zero for other tiers.
    pub resume: Duration,
    /// From then on until the guest confirmed its new entropy, clock and identity; of a boot, all
    /// that the guest's start took.
    pub hello: Duration,
    /// All of it.
    pub total: Duration,
}

/// A VM of one's own. Nobody else ever had it, and nobody gets it afterwards.
///
/// Dropping it kills it, as does the end of this process, however that comes;
/// [`destroy_vm`](super::destroy_vm) also waits until it is gone. [`Limits`] bound how long it lives.
///
/// A VM that nobody holds would be killed at once, which the compiler warns of:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use ironclaw_orchestrator::vm::{Pool, SpawnError};
/// # async fn example(pool: &Pool) -> Result<(), SpawnError> {
/// pool.spawn("unused").await?;
/// # Ok(())
/// # }
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// # use ironclaw_orchestrator::vm::{Pool, SpawnError};
/// # async fn example(pool: &Pool) -> Result<(), SpawnError> {
/// let vm = pool.spawn("used").await?;
/// drop(vm);
/// # Ok(())
/// # }
/// ```
#[must_use = "a VM is killed when its handle is dropped"]
#[derive(Debug)]
pub struct VmHandle {
    name: String,
    origin: Origin,
    timings: Timings,
    guest: Guest,
    vm: Arc<dyn MicroVm>,
    // Keeps the files below the VM's memory; goes before what tells the pool that it went.
    _snapshot: Option<Snapshot>,
    _held: Option<Box<dyn fmt::Debug + Send + Sync>>,
}

/// A VM that could not be destroyed in time.
#[derive(Debug, Error)]
#[error("process {pid} of VM {name:?} was killed and has not ended within {after:?}")]
pub struct DestroyError {
    /// The VM.
    pub name: String,
    /// Its VMM's process.
    pub pid: u32,
    /// How long was waited.
    pub after: Duration,
}

impl VmHandle {
    pub(crate) fn new(
        name: &str,
        origin: Origin,
        guest: Guest,
        vm: Box<dyn MicroVm>,
        snapshot: Option<Snapshot>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            origin,
            timings: Timings::default(),
            guest,
            vm: vm.into(),
            _snapshot: snapshot,
            _held: None,
        }
    }

    pub(crate) fn with_timings(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }

    /// Keeps something until the VM's end.
    pub(crate) fn holding(mut self, held: Box<dyn fmt::Debug + Send + Sync>) -> Self {
        self._held = Some(held);
        self
    }

    pub(crate) fn limited(self, limits: Limits) -> Self {
        limits.enforce(&self.vm, self.guest.activity());
        self
    }

    /// The name it was spawned under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of its VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.vm.pid()
    }

    /// Which tier served it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Where the time of its spawn went.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Runs a command to its end and collects what it prints; without a
    /// [time limit](Command::timeout) that may take for ever. See [`Guest::exec`].
    ///
    /// # Errors
    /// As for [`Guest::exec`]; [`GuestError::Closed`] tells how the VM ended. A command that fails is
    /// no error, see [`Output::status`].
    pub async fn exec(&self, command: impl Into<Command>) -> Result<Output, GuestError> {
        self.guest.exec(command).await
    }

    /// Starts a command whose output is streamed; see [`Guest::start`].
    ///
    /// # Errors
    /// As for [`Guest::start`]: it is beyond the protocol's limits, or the VM has ended.
    pub async fn start(&self, command: impl Into<Command>) -> Result<Running, GuestError> {
        self.guest.start(command).await
    }

    /// Writes a new file in the guest, which replaces whatever has its name; see [`Guest::put_file`].
    ///
    /// # Errors
    /// As for [`Guest::put_file`]: the guest can't write it, or the VM ends meanwhile.
    pub async fn put_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        content: &[u8],
    ) -> Result<(), GuestError> {
        self.guest.put_file(path, mode, content).await
    }

    /// Writes to a file in the guest in place, which keeps its owner, mode and links; see
    /// [`Guest::overwrite_file`].
    ///
    /// # Errors
    /// As for [`Guest::overwrite_file`]: the guest can't write it, or the VM ends meanwhile.
    pub async fn overwrite_file(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        content: &[u8],
    ) -> Result<(), GuestError> {
        self.guest.overwrite_file(path, mode, content).await
    }

    /// Reads a file of the guest of at most `limit` bytes; see [`Guest::get_file`].
    ///
    /// # Errors
    /// As for [`Guest::get_file`]: it is larger, the guest can't read it, or the VM ends meanwhile.
    pub async fn get_file(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Vec<u8>, GuestError> {
        self.guest.get_file(path, limit).await
    }

    /// Waits for a sign of life, for at most `patience`.
    ///
    /// # Errors
    /// [`GuestError::NoAnswer`] if there is none in time, [`GuestError::Closed`] if the VM has ended.
    pub async fn ping(&self, patience: Duration) -> Result<(), GuestError> {
        self.guest.ping(patience).await
    }

    /// Resolves when the VM has ended, for whatever reason.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        self.vm.exited()
    }

    /// Kills the VM and waits until its process is gone.
    ///
    /// # Errors
    /// [`DestroyError`] if the kernel takes too long to end it; it is killed nevertheless.
    pub async fn destroy(self) -> Result<(), DestroyError> {
        let exited = self.vm.exited();
        self.vm.kill();
        match timeout(PROCESS_END_TIMEOUT, exited).await {
            Ok(_) => Ok(()),
            Err(_) => Err(DestroyError {
                pid: self.pid(),
                name: self.name,
                after: PROCESS_END_TIMEOUT,
            }),
        }
    }
}
