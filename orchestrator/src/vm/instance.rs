//! A living VM: its process, its guest, and its resources on the host.
//!
//! Its machine has one user at a time: the pool until the VM is handed out, then its
//! [task](super::vm_task), which takes the machine for each operation. Ending the VM needs neither.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ironclaw_protocol::message::Identity;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{Span, field};

use crate::template::{Template, TemplatePin};
use crate::vm::exit_reason::ExitReason;
use crate::vm::guest::defaults::Defaults;
use crate::vm::guest::{Guest, GuestError};
use crate::vm::lifecycle::{Denied, Request, State};
use crate::vm::snapshot::{Requirements, Snapshot, SnapshotStore};
use crate::vm::vm_id::VmId;
use crate::vm::vmm::{Images, MicroVm, VmmError, VmmProcess};
use crate::vm::vms::{PoolVms, Vms};

/// Capacity of the channel to the task, which takes requests at once.
const MAILBOX: usize = 8;

/// A VM, alive or over.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: VmId,
    /// The span of whatever is done with it or to it.
    pub(crate) span: Span,
    pub(crate) process: Arc<dyn VmmProcess>,
    pub(crate) is_jailed: bool,
    pub(crate) guest: Guest,
    resources: Mutex<Resources>,
    state: watch::Sender<State>,
    mailbox: mpsc::Sender<Message>,
    /// The reason of its end; the first one counts.
    reason: OnceLock<ExitReason>,
    killed: AtomicBool,
    lease: OnceLock<Lease>,
    lineage: Arc<Lineage>,
    listed: OnceLock<Arc<Vms<Instance>>>,
}

/// The resources of a VM on the host, released in this order when it is over.
#[derive(Debug, Default)]
struct Resources {
    /// `None` during an operation on it.
    machine: Option<Box<dyn MicroVm>>,
    /// Keeps the files below its memory; released before the pool is notified.
    snapshot: Option<Snapshot>,
    /// Its room in the pool.
    room: Option<Box<dyn fmt::Debug + Send + Sync>>,
    over: bool,
}

/// The origin of a VM, and so of its checkpoints.
#[derive(Debug)]
pub(crate) struct Lineage {
    pub(crate) store: SnapshotStore,
    pub(crate) requirements: Requirements,
    /// The images of its template.
    pub(crate) images: Images,
    /// The template, which is kept for it.
    pub(crate) template: Template,
    pub(crate) _pin: TemplatePin,
    /// What its template says of commands.
    pub(crate) defaults: Defaults,
}

/// The identity under which a VM was handed out, and the time.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) since: Instant,
}

/// A request for the task of a VM.
pub(crate) type Message = (Request, Reply);

/// The channel for the answer.
pub(crate) type Reply = oneshot::Sender<Result<(), VmError>>;

/// The reason why a VM refused or failed a request.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmError {
    /// The VM's state does not allow it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The VMM failed. The VM is killed.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// No checkpoint could be written of it. The VM goes on.
    #[error("no checkpoint was written")]
    NoCheckpoint(#[source] VmmError),
    /// The guest failed. The VM is killed.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl Instance {
    /// Creates a VM with an agent that can be reached; returns the queue of its task, too.
    pub(crate) fn new(
        machine: Box<dyn MicroVm>,
        guest: Guest,
        snapshot: Option<Snapshot>,
        lineage: Arc<Lineage>,
    ) -> (Arc<Self>, mpsc::Receiver<Message>) {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let id = VmId::generate();
        let instance = Self {
            id,
            // Of no other span: it outlasts the call that made it.
            span: tracing::info_span!(parent: None, "vm", %id, name = field::Empty),
            process: machine.process(),
            is_jailed: machine.is_jailed(),
            guest: guest.with_defaults(lineage.defaults.clone()),
            resources: Mutex::new(Resources {
                machine: Some(machine),
                snapshot,
                ..Resources::default()
            }),
            state: watch::Sender::new(State::Starting),
            mailbox,
            reason: OnceLock::new(),
            killed: AtomicBool::new(false),
            lease: OnceLock::new(),
            lineage,
            listed: OnceLock::new(),
        };
        (Arc::new(instance), messages)
    }

    fn resources(&self) -> MutexGuard<'_, Resources> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the machine for an operation. Dropping it ends the VM.
    ///
    /// # Errors
    /// The VM is over.
    pub(crate) fn take_machine(&self) -> Result<Box<dyn MicroVm>, Denied> {
        let machine = self.resources().machine.take();
        machine.ok_or_else(|| Denied::Gone(self.reason()))
    }

    pub(crate) fn put_back(&self, machine: Box<dyn MicroVm>) {
        let mut resources = self.resources();
        if !resources.over {
            resources.machine = Some(machine);
        }
    }

    /// Returns its origin, with the snapshot if it was restored from one.
    pub(crate) fn lineage(&self) -> (Arc<Lineage>, Option<Snapshot>) {
        let snapshot = self.resources().snapshot.clone();
        (Arc::clone(&self.lineage), snapshot)
    }

    /// Holds a value until the VM's end.
    pub(crate) fn hold(&self, room: Box<dyn fmt::Debug + Send + Sync>) {
        let mut resources = self.resources();
        if !resources.over {
            resources.room = Some(room);
        }
    }

    /// Records that it is handed out.
    pub(crate) fn lease(&self, name: &str, identity: Identity) {
        let lease = Lease {
            name: name.to_owned(),
            identity,
            since: Instant::now(),
        };
        self.span.record("name", name);
        // Called once: the caller hands it out.
        let _ = self.lease.set(lease);
        self.state.send_if_modified(|state| {
            let starts = *state == State::Starting;
            if starts {
                *state = State::Running;
            }
            starts
        });
    }

    /// Returns its lease; `None` before that.
    pub(crate) fn leased(&self) -> Option<&Lease> {
        self.lease.get()
    }

    /// Lists it in `vms` until its end.
    pub(crate) fn list_in(self: &Arc<Self>, vms: &PoolVms<Self>) {
        let all = vms.of_all_pools();
        if self.listed.set(Arc::clone(all)).is_err() {
            return;
        }
        if !vms.insert(self.id, self) {
            self.end(ExitReason::PoolClosed);
        }
        // It may have ended before it was listed.
        if matches!(self.state(), State::Gone(_)) {
            all.remove(self.id);
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Records that the VM is about to end for this reason, unless there is one already.
    pub(crate) fn expect_end(&self, reason: ExitReason) {
        let reason = self.reason.get_or_init(|| reason);
        self.guest.expect_end(reason);
    }

    /// Kills it, whatever it does. Requests to its guest fail with the first reason given.
    pub(crate) fn end(&self, reason: ExitReason) {
        let reason = self.reason.get_or_init(|| reason);
        self.guest.close(reason);
        self.killed.store(true, Ordering::Release);
        self.process.kill();
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    fn reason(&self) -> ExitReason {
        self.reason.get().cloned().unwrap_or(ExitReason::Dropped)
    }

    /// Releases its resources on the host. Waits for another thread that does so at the same time.
    pub(crate) fn give_back(&self) {
        let mut resources = self.resources();
        resources.over = true;
        resources.machine = None;
        resources.snapshot = None;
        resources.room = None;
    }

    /// Records that its process has ended, for this reason unless there is one already.
    pub(crate) fn is_gone(&self, reason: ExitReason) {
        let reason = self.reason.get_or_init(|| reason).clone();
        if self.leased().is_some() && !matches!(self.state(), State::Gone(_)) {
            tracing::debug!(parent: &self.span, %reason, "a VM is over");
        }
        self.guest.close(&reason);
        self.give_back();
        // Before whoever waits for the state looks, and after whoever lists it has looked at the state.
        self.unlist();
        self.set_state(State::Gone(reason));
        self.unlist();
    }

    fn unlist(&self) {
        if let Some(vms) = self.listed.get() {
            vms.remove(self.id);
        }
    }

    /// Makes the task do something; returns when it is done.
    ///
    /// # Errors
    /// [`VmError`].
    pub(crate) async fn ask(&self, request: Request) -> Result<(), VmError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.mailbox.send((request, reply)).await;
        let over = || VmError::Denied(Denied::Gone(self.reason()));
        sent.map_err(|_| over())?;
        answer.await.unwrap_or_else(|_| Err(over()))
    }

    /// Makes the task do something that takes no time, without waiting for it.
    pub(crate) fn tell(&self, request: Request) {
        let (reply, _) = oneshot::channel();
        // Called before anybody else can send a request.
        let _ = self.mailbox.try_send((request, reply));
    }
}
