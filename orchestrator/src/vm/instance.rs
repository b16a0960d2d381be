//! A VM that lives: its process, its guest, and what it has of the host.
//!
//! Its machine can be used by one at a time: by the pool until it is handed out, then by its
//! [task](super::vm_task), which takes it for as long as it does something with it. Whoever ends the
//! VM needs neither.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ironclaw_protocol::message::Identity;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::vm::exit_reason::ExitReason;
use crate::vm::guest::{Guest, GuestError};
use crate::vm::lifecycle::{Denied, Request, State};
use crate::vm::snapshot::Snapshot;
use crate::vm::vm_id::VmId;
use crate::vm::vmm::{MicroVm, VmmError, VmmProcess};
use crate::vm::vms::Vms;

/// Requests on their way to the task, which takes them at once.
const MAILBOX: usize = 8;

/// A VM that lives, or has.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: VmId,
    pub(crate) process: Arc<dyn VmmProcess>,
    pub(crate) guest: Guest,
    resources: Mutex<Resources>,
    state: watch::Sender<State>,
    mailbox: mpsc::Sender<Message>,
    /// Why it ends; the first reason counts.
    reason: OnceLock<ExitReason>,
    killed: AtomicBool,
    lease: OnceLock<Lease>,
    listed: OnceLock<Arc<Vms<Instance>>>,
}

/// What a VM has of the host, given back in this order when it is over.
#[derive(Debug, Default)]
struct Resources {
    /// `None` while something is done with it.
    machine: Option<Box<dyn MicroVm>>,
    /// Keeps the files below its memory; goes before the pool is told that it went.
    snapshot: Option<Snapshot>,
    /// Its room in the pool.
    room: Option<Box<dyn fmt::Debug + Send + Sync>>,
    over: bool,
}

/// As whom a VM was handed out, and when.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) since: Instant,
}

/// A request for the task of a VM.
pub(crate) type Message = (Request, Reply);

/// Where the answer goes.
pub(crate) type Reply = oneshot::Sender<Result<(), VmError>>;

/// Why a VM did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmError {
    /// It is in no state for that.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Its VMM did not do it. The VM is killed.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// Its guest did not. The VM is killed.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl Instance {
    /// Of a VM with an agent that can be reached; with what its task is to take.
    pub(crate) fn new(
        machine: Box<dyn MicroVm>,
        guest: Guest,
        snapshot: Option<Snapshot>,
    ) -> (Arc<Self>, mpsc::Receiver<Message>) {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let instance = Self {
            id: VmId::generate(),
            process: machine.process(),
            guest,
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
            listed: OnceLock::new(),
        };
        (Arc::new(instance), messages)
    }

    fn resources(&self) -> MutexGuard<'_, Resources> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine, for as long as something is done with it. Dropping it ends the VM.
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

    /// Keeps something until the VM's end.
    pub(crate) fn hold(&self, room: Box<dyn fmt::Debug + Send + Sync>) {
        let mut resources = self.resources();
        if !resources.over {
            resources.room = Some(room);
        }
    }

    /// It is handed out.
    pub(crate) fn lease(&self, name: &str, identity: Identity) {
        let lease = Lease {
            name: name.to_owned(),
            identity,
            since: Instant::now(),
        };
        // Once: whoever hands it out has it.
        let _ = self.lease.set(lease);
        self.state.send_if_modified(|state| {
            let starts = *state == State::Starting;
            if starts {
                *state = State::Running;
            }
            starts
        });
    }

    /// As whom; `None` before that.
    pub(crate) fn leased(&self) -> Option<&Lease> {
        self.lease.get()
    }

    /// Lists it until its end.
    pub(crate) fn list_in(self: &Arc<Self>, vms: &Arc<Vms<Self>>) {
        if self.listed.set(Arc::clone(vms)).is_err() {
            return;
        }
        if !vms.insert(self.id, self) {
            self.end(ExitReason::PoolClosed);
        }
        // It may have ended before it was there.
        if matches!(self.state(), State::Gone(_)) {
            vms.remove(self.id);
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

    /// What comes next is expected: the VM ends for this reason unless another came first.
    pub(crate) fn expect_end(&self, reason: ExitReason) {
        let reason = self.reason.get_or_init(|| reason);
        self.guest.expect_end(reason);
    }

    /// Kills it, whatever it does. What is asked of its guest fails for the first reason that was
    /// given.
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

    /// Gives back what it has of the host. What another thread gives back at the same time is waited
    /// for.
    pub(crate) fn give_back(&self) {
        let mut resources = self.resources();
        resources.over = true;
        resources.machine = None;
        resources.snapshot = None;
        resources.room = None;
    }

    /// Its process has ended, for this reason unless another was given before.
    pub(crate) fn is_gone(&self, reason: ExitReason) {
        let reason = self.reason.get_or_init(|| reason).clone();
        self.guest.close(&reason);
        self.give_back();
        self.set_state(State::Gone(reason));
        if let Some(vms) = self.listed.get() {
            vms.remove(self.id);
        }
    }

    /// Has the task do something, and returns when it is done.
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

    /// Has the task do something that is done at once, and that nobody waits for.
    pub(crate) fn tell(&self, request: Request) {
        let (reply, _) = oneshot::channel();
        // Told before anybody else can ask.
        let _ = self.mailbox.try_send((request, reply));
    }
}
