//! The handle of a VM.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ironclaw_protocol::message::Identity;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::vm::exit_reason::ExitReason;
use crate::vm::guest::Guest;
use crate::vm::identity::VmName;
use crate::vm::instance::{Instance, Lineage};
use crate::vm::lifecycle::{Denied, Request};
use crate::vm::limits::Limits;
use crate::vm::snapshot::Snapshot;
use crate::vm::vm_client::VmClient;
use crate::vm::vm_id::VmId;
use crate::vm::vm_task;
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{MicroVm, VmmError, VmmProcess};
use crate::vm::vms::PoolVms;

/// The tier that served a spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Origin {
    /// A warm clone was released.
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

/// The times of a spawn's stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Timings {
    /// Waiting for room, and choosing a tier.
    pub queue: Duration,
    /// Attempts of higher tiers that failed.
    pub failed: Duration,
    /// Starting the VMM's process, until it took commands; zero for a warm clone, and with a
    /// standby process.
    pub start: Duration,
    /// Loading the snapshot and resuming its vCPUs; zero in other tiers.
    pub load: Duration,
    /// Releasing a warm clone, until its VMM confirmed; zero in other tiers.
    pub resume: Duration,
    /// From then until the guest confirmed its new entropy, clock and identity; for a boot,
    /// including the guest's start.
    pub hello: Duration,
    /// The whole spawn.
    pub total: Duration,
}

impl Timings {
    /// Returns the stages with their names, in their order. Their sum is the whole spawn.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, Duration); 6] {
        [
            ("queue", self.queue),
            ("failed", self.failed),
            ("start", self.start),
            ("load", self.load),
            ("resume", self.resume),
            ("hello", self.hello),
        ]
    }
}

/// A VM of one's own, which nobody else had before or gets afterwards.
///
/// Dropping it kills the VM, as does the end of this process, for whatever reason;
/// [`destroy_vm`](super::destroy_vm) also waits until it is gone, and [`VmClient::stop`] lets the
/// guest power off first. [`Limits`] bound its lifetime.
///
/// It derefs to [`VmClient`], which has all operations; clones of that ([`client`](Self::client))
/// reach the VM from elsewhere, and do not keep it alive.
///
/// A VM without a holder would be killed at once, so the compiler warns of it:
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
pub struct VmHandle {
    client: VmClient,
    origin: Origin,
    timings: Timings,
    _vm: Vm,
}

/// The error of a VM that could not be destroyed in time.
#[derive(Debug, Error)]
#[error("process {pid} of VM {name:?} ({id}) was killed and has not ended within {after:?}")]
#[non_exhaustive]
pub struct DestroyError {
    /// The VM's id.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// The process id of its VMM.
    pub pid: u32,
    /// The time waited.
    pub after: Duration,
}

/// A VM, handed out or not, with its task; killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Vm(Arc<Instance>);

impl Vm {
    /// Starts the task of a VM whose agent can be reached.
    pub(crate) fn new(
        machine: Box<dyn MicroVm>,
        guest: Guest,
        snapshot: Option<Snapshot>,
        lineage: &Arc<Lineage>,
    ) -> Self {
        let (instance, messages) = Instance::new(machine, guest, snapshot, Arc::clone(lineage));
        let span = instance.span.clone();
        tokio::spawn(vm_task::run(Arc::clone(&instance), messages).instrument(span));
        Self(instance)
    }

    pub(crate) fn guest(&self) -> &Guest {
        &self.0.guest
    }

    pub(crate) fn process(&self) -> &dyn VmmProcess {
        &*self.0.process
    }

    /// Holds the guest of a VM that is not handed out.
    pub(crate) async fn hold(&self) -> Result<(), VmmError> {
        let mut machine = self.0.take_machine().map_err(over)?;
        machine.hold().await?;
        self.0.put_back(machine);
        Ok(())
    }

    /// Releases it.
    pub(crate) async fn release(&self) -> Result<(), VmmError> {
        let mut machine = self.0.take_machine().map_err(over)?;
        machine.release().await?;
        self.0.put_back(machine);
        Ok(())
    }

    /// Hands it out, after its guest applied `identity`.
    pub(crate) fn hand_out(self, name: &VmName, identity: Identity, origin: Origin) -> VmHandle {
        self.0.lease(name.as_str(), identity);
        tracing::debug!(parent: &self.0.span, %origin, "a VM is handed out");
        VmHandle {
            client: VmClient(Arc::clone(&self.0)),
            origin,
            timings: Timings::default(),
            _vm: self,
        }
    }
}

fn over(denied: Denied) -> VmmError {
    VmmError::Refused {
        operation: "use a VM".to_owned(),
        message: denied.to_string(),
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.0.end(ExitReason::Dropped);
        self.0.give_back();
    }
}

impl Deref for VmHandle {
    type Target = VmClient;

    fn deref(&self) -> &VmClient {
        &self.client
    }
}

impl fmt::Debug for VmHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmHandle")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("origin", &self.origin)
            .field("state", &self.state())
            .finish()
    }
}

impl VmHandle {
    pub(crate) fn with_timings(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }

    /// Keeps the VM's room in the pool until its end.
    pub(crate) fn holding(self, room: Box<dyn fmt::Debug + Send + Sync>) -> Self {
        self.client.0.hold(room);
        self
    }

    /// Lists it until its end.
    pub(crate) fn listed_in(self, vms: &PoolVms<Instance>) -> Self {
        self.client.0.list_in(vms);
        self
    }

    pub(crate) fn limited(self, limits: Limits) -> Self {
        let Limits { max_lifetime, idle } = limits;
        let instance = &self.client.0;
        let since = instance.leased().map(|lease| lease.since);
        let deadline = since.zip(max_lifetime);
        // A deadline beyond the clock's range is none.
        if let Some(at) = deadline.and_then(|(since, limit)| since.checked_add(limit)) {
            instance.tell(Request::SetDeadline(Some(at)));
        }
        if idle.is_some() {
            instance.tell(Request::SetIdle(idle));
        }
        self
    }

    /// Returns a reference to the VM, to reach it from elsewhere.
    #[must_use]
    pub fn client(&self) -> VmClient {
        self.client.clone()
    }

    /// Returns the tier that served it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the times of its spawn.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Kills the VM and waits until its process is gone.
    ///
    /// # Errors
    /// [`DestroyError`] if the kernel takes too long to end it; it is killed nevertheless.
    pub async fn destroy(self) -> Result<(), DestroyError> {
        let exited = self.exited();
        self.kill();
        match timeout(PROCESS_END_TIMEOUT, exited).await {
            Ok(_) => {
                // The task may not have been told yet.
                self.client.0.is_gone(ExitReason::Destroyed);
                Ok(())
            }
            Err(_) => Err(DestroyError {
                id: self.id(),
                pid: self.pid(),
                name: self.name().to_owned(),
                after: PROCESS_END_TIMEOUT,
            }),
        }
    }
}
