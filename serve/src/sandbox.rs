//! A sandbox: a VM under an id that its clients keep, whether it runs or is paused.

mod lifecycle;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::snapshot::SnapshotError;
use ironclaw_orchestrator::vm::{
    CheckpointError, ErrorKind, GuestError, Limits, Origin, SpawnError, SpawnOptions, Timings,
    VmClient, VmHandle, VmIdentity,
};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::DatabaseError;
use crate::log::Log;
use crate::memory::Memory;
use crate::new_sandbox::InvalidSandbox;
use crate::ports::Ports;
use crate::process::Processes;
use crate::record::Record;
use crate::sandbox_id::SandboxId;
use crate::templates::{ROOT, TemplateError, TemplatePool};
use crate::usage::UsageHistory;
use crate::watchers::Watchers;

/// The reason why a sandbox does not do what it is asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There is none of that id, or no more.
    #[error("the sandbox was not found")]
    Gone,
    /// It is paused.
    #[error("the sandbox is paused")]
    Paused,
    /// There are as many as there may be.
    #[error("there are {0} sandboxes, as many as there may be")]
    TooMany(usize),
    /// The daemon is ending.
    #[error("the daemon is ending")]
    Draining,
    /// An operator wants no new ones on this node.
    #[error("the node is draining: it takes no new sandboxes")]
    Refused,
    /// A request with the same Idempotency-Key made another one.
    #[error("the Idempotency-Key made sandbox {0}, by another request")]
    KeyReused(SandboxId),
    /// It is not one that there may be.
    #[error(transparent)]
    Invalid(#[from] InvalidSandbox),
    /// Its template can't be used.
    #[error(transparent)]
    Template(Box<TemplateError>),
    /// No VM could be spawned.
    #[error("no VM could be had")]
    Spawn(#[from] SpawnError),
    /// It could not be paused. It runs on, or is gone if its VM failed.
    #[error("the sandbox can't be paused")]
    Pause(#[from] CheckpointError),
    /// Its memory can't be read any more, or not be deleted.
    #[error("the memory of a paused sandbox can't be used")]
    Memory(#[from] SnapshotError),
    /// Its guest did not do what was asked.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(String),
}

impl From<TemplateError> for SandboxError {
    fn from(error: TemplateError) -> Self {
        Self::Template(Box::new(error))
    }
}

impl SandboxError {
    /// Returns whether there is no room now and may be later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Spawn(error) => matches!(error.kind(), ErrorKind::NoRoom | ErrorKind::Busy),
            Self::TooMany(_) | Self::Draining | Self::Refused => true,
            _ => false,
        }
    }
}

/// Whether a sandbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Running,
    Paused,
}

/// What can be told of a sandbox at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// The deadline; when it was paused, if it is.
    pub(crate) end: SystemTime,
    deadline: Option<Instant>,
}

/// A sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) record: Record,
    pub(crate) template: Arc<TemplatePool>,
    /// One change at a time; requests wait for it.
    phase: tokio::sync::Mutex<Phase>,
    status: Mutex<Status>,
    pub(crate) changed: Notify,
    pub(crate) usage: UsageHistory,
    pub(crate) log: Arc<Log>,
}

#[derive(Debug)]
enum Phase {
    Running(Box<Ran>),
    Paused(Memory, Option<VmIdentity>),
    Gone,
}

#[derive(Debug)]
struct Ran {
    vm: VmHandle,
    processes: Arc<Processes>,
    ports: Arc<Ports>,
    watchers: Arc<Watchers>,
    /// What it goes on from, whose files it may still read.
    from: Option<Memory>,
}

/// A sandbox that runs.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) vm: VmClient,
    pub(crate) processes: Arc<Processes>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) watchers: Arc<Watchers>,
}

impl Sandbox {
    /// Makes a sandbox of a VM.
    pub(crate) fn running(
        id: SandboxId,
        record: Record,
        template: Arc<TemplatePool>,
        vm: VmHandle,
        from: Option<Memory>,
        lifetime: Duration,
    ) -> Self {
        let log = Arc::default();
        let ran = Ran {
            vm,
            processes: Processes::new(&log),
            ports: Arc::default(),
            watchers: Arc::default(),
            from,
        };
        Self {
            id,
            record,
            template,
            phase: tokio::sync::Mutex::new(Phase::Running(Box::new(ran))),
            status: Mutex::new(Status::until(lifetime)),
            changed: Notify::new(),
            usage: UsageHistory::default(),
            log,
        }
    }

    /// Makes a sandbox that is paused.
    pub(crate) fn paused(
        id: SandboxId,
        record: Record,
        template: Arc<TemplatePool>,
        memory: Memory,
        identity: Option<VmIdentity>,
        since: SystemTime,
    ) -> Self {
        let log = Arc::default();
        Self {
            id,
            record,
            template,
            phase: tokio::sync::Mutex::new(Phase::Paused(memory, identity)),
            status: Mutex::new(Status::paused(since)),
            changed: Notify::new(),
            usage: UsageHistory::default(),
            log,
        }
    }

    /// Returns the user that its commands run as if nobody names one; `None` if its guest has no users.
    pub(crate) async fn command_user(&self, vm: &VmClient) -> Result<Option<String>, GuestError> {
        match &self.record.user {
            Some(user) => Ok(Some(user.clone())),
            None => Ok(self.template.user(vm).await?.map(str::to_owned)),
        }
    }

    /// Returns the user that requests act as if they name none.
    pub(crate) async fn user(&self, vm: &VmClient) -> Result<String, GuestError> {
        let user = self.command_user(vm).await?;
        Ok(user.unwrap_or_else(|| ROOT.to_owned()))
    }

    pub(crate) fn status(&self) -> Status {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the deadline, counted from now.
    pub(crate) async fn set_lifetime(&self, lifetime: Duration) -> Result<(), SandboxError> {
        match &*self.phase.lock().await {
            Phase::Running(_) => {}
            Phase::Paused(..) => return Err(SandboxError::Paused),
            Phase::Gone => return Err(SandboxError::Gone),
        }
        *self.lock() = Status::until(lifetime);
        self.changed.notify_one();
        Ok(())
    }

    /// Moves the deadline to a later time, never to an earlier one.
    pub(crate) async fn extend(&self, lifetime: Duration) -> Result<(), SandboxError> {
        match &*self.phase.lock().await {
            Phase::Running(_) => self.move_deadline(lifetime),
            Phase::Paused(..) => return Err(SandboxError::Paused),
            Phase::Gone => return Err(SandboxError::Gone),
        }
        Ok(())
    }

    /// Moves the deadline of one that runs, as the lock of its phase ensures.
    fn move_deadline(&self, lifetime: Duration) {
        let extended = Status::until(lifetime);
        let mut status = self.lock();
        if extended.deadline > status.deadline {
            *status = extended;
            self.changed.notify_one();
        }
    }

    /// Returns it if it runs.
    pub(crate) async fn live(&self) -> Result<Live, SandboxError> {
        match &*self.phase.lock().await {
            Phase::Running(ran) => Ok(ran.live()),
            Phase::Paused(..) => Err(SandboxError::Paused),
            Phase::Gone => Err(SandboxError::Gone),
        }
    }

    /// Returns how its VM came to be, if it runs.
    pub(crate) async fn spawned(&self) -> Option<(Origin, Timings)> {
        match &*self.phase.lock().await {
            Phase::Running(ran) => Some((ran.vm.origin(), ran.vm.timings())),
            Phase::Paused(..) | Phase::Gone => None,
        }
    }

    /// Resolves when its VM has ended by itself. One that is paused or killed ends its VM, too.
    pub(crate) async fn ended(&self) {
        let running = async || match &*self.phase.lock().await {
            Phase::Running(ran) => Some(ran.vm.client()),
            Phase::Paused(..) | Phase::Gone => None,
        };
        if let Some(vm) = running().await {
            vm.wait().await;
            if running().await.is_some_and(|now| now.id() == vm.id()) {
                return;
            }
        }
        // The next change tells what to wait for.
        std::future::pending().await
    }

    /// Returns the time of its deadline, if it runs.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }
}

impl Ran {
    fn live(&self) -> Live {
        Live {
            vm: self.vm.client(),
            processes: Arc::clone(&self.processes),
            ports: Arc::clone(&self.ports),
            watchers: Arc::clone(&self.watchers),
        }
    }
}

/// Returns what the VM of a sandbox is spawned with.
pub(crate) fn spawn_options(id: &SandboxId, record: &Record) -> SpawnOptions {
    let limits = Limits::default().with_idle(record.idle_limit);
    SpawnOptions::named(id.as_str()).with_limits(limits)
}

impl Status {
    fn until(lifetime: Duration) -> Self {
        Self {
            state: State::Running,
            end: SystemTime::now() + lifetime,
            deadline: Some(Instant::now() + lifetime),
        }
    }

    fn paused(since: SystemTime) -> Self {
        Self {
            state: State::Paused,
            end: since,
            deadline: None,
        }
    }
}
