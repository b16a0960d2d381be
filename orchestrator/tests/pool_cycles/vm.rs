//! The simulated hypervisor: its VMs are tasks of this process.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ironclaw_orchestrator::vm::vmm::{
    Exit, Machine, MicroVm, RestoreSpec, SavedFiles, Standby, VmSpec, Vmm, VmmError, VmmIdentity,
    VmmKind, VmmProcess,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::guest;
use crate::world::World;

/// The delay of slow operations.
const SLOW_DELAY: Duration = Duration::from_millis(5);

pub(crate) struct Simulated {
    identity: VmmIdentity,
    world: Arc<World>,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulated")
    }
}

impl Simulated {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            identity: VmmIdentity::new(VmmKind::new("simulated"), "simulated", "none"),
        }
    }

    fn start(&self) -> SimulatedVm {
        let id = self.world.born();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let life = Arc::new(Life {
            id,
            exit: watch::Sender::new(None),
            guest: Mutex::default(),
            deaf: AtomicBool::new(false),
        });
        self.world.lives(&life);
        let presence = self.world.guest();
        let served = guest::serve(theirs, Arc::clone(&self.world), Arc::downgrade(&life));
        let guest = tokio::spawn(async move {
            served.await;
            drop(presence);
        });
        *life.guest.lock().unwrap() = Some(guest.abort_handle());
        // May have ended before it was registered.
        if life.has_ended() {
            guest.abort();
        }
        SimulatedVm {
            world: Arc::clone(&self.world),
            life,
            channel: Some(ours),
        }
    }
}

#[async_trait]
impl Vmm for Simulated {
    fn identity(&self) -> &VmmIdentity {
        &self.identity
    }

    fn tsc_khz(&self) -> Option<u32> {
        None
    }

    async fn try_out(&self, _: Machine) -> Result<(), VmmError> {
        Ok(())
    }

    async fn boot(&self, _: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        if self.world.strikes(Fault::BootRefused) {
            return Err(refused("boot"));
        }
        let vm = self.start();
        if self.world.vmms_die() {
            return Err(vm.dies("boot"));
        }
        Ok(Box::new(vm))
    }

    async fn restore(&self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        self.start().restore(spec).await
    }

    async fn stand_by(&self, _: Machine) -> Result<Option<Box<dyn Standby>>, VmmError> {
        if self.world.strikes(Fault::StandByRefused) {
            return Err(refused("stand by"));
        }
        let vm = self.start();
        if self.world.vmms_die() {
            return Err(vm.dies("stand by"));
        }
        Ok(Some(Box::new(SimulatedStandby(vm))))
    }
}

#[derive(Debug)]
struct SimulatedStandby(SimulatedVm);

#[async_trait]
impl Standby for SimulatedStandby {
    async fn restore(self: Box<Self>, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        if self.0.life.has_ended() {
            return Err(self.0.dies("restore"));
        }
        self.0.restore(spec).await
    }

    fn pid(&self) -> u32 {
        self.0.life.pid()
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        self.0.process().exited()
    }
}

impl SimulatedVm {
    async fn restore(self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        assert!(spec.files.memory.exists(), "deleted under its clones");
        if self.world.strikes(Fault::RestoreSlow) {
            sleep(SLOW_DELAY).await;
        }
        if self.world.strikes(Fault::RestoreTimedOut) {
            sleep(SLOW_DELAY).await;
            return Err(timed_out("restore"));
        }
        if self.world.vmms_die() || self.world.strikes(Fault::RestoreDied) {
            return Err(self.dies("restore"));
        }
        Ok(Box::new(self))
    }
}

/// The state of a VM outside of its handle.
#[derive(Debug)]
pub(crate) struct Life {
    id: u32,
    exit: watch::Sender<Option<Exit>>,
    guest: Mutex<Option<AbortHandle>>,
    /// Whether the guest has stopped receiving.
    deaf: AtomicBool,
}

impl Life {
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Ends it, with its guest; only the first end counts.
    pub(crate) fn end(&self, status: &str) {
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert_with(|| Exit::new(status));
            first
        });
        if let Some(guest) = &*self.guest.lock().unwrap() {
            guest.abort();
        }
    }

    fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }
}

impl VmmProcess for Life {
    fn pid(&self) -> u32 {
        self.id
    }

    fn kill(&self) {
        self.end("signal: 9 (SIGKILL)");
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let mut exit = self.exit.subscribe();
        Box::pin(async move {
            loop {
                if let Some(exit) = exit.borrow_and_update().clone() {
                    return exit;
                }
                // Its sender lives as long as who waits for it.
                if exit.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

#[derive(Debug)]
struct SimulatedVm {
    world: Arc<World>,
    life: Arc<Life>,
    channel: Option<UnixStream>,
}

impl SimulatedVm {
    fn dies(&self, operation: &'static str) -> VmmError {
        self.life.end("exit status: 1");
        let exit = self.life.exit.borrow().clone();
        VmmError::Died {
            operation,
            exit: exit.unwrap(),
        }
    }
}

#[async_trait]
impl MicroVm for SimulatedVm {
    async fn hold(&mut self) -> Result<(), VmmError> {
        if self.world.strikes(Fault::PauseRefused) {
            return Err(refused("hold"));
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<(), VmmError> {
        self.life.deaf.store(self.world.is_deaf(), Ordering::SeqCst);
        if self.world.strikes(Fault::ResumeDied) {
            return Err(self.dies("release"));
        }
        if self.world.strikes(Fault::ResumeTimedOut) {
            sleep(SLOW_DELAY).await;
            return Err(timed_out("release"));
        }
        Ok(())
    }

    async fn snapshot(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        std::fs::write(&files.vmstate, "state").unwrap();
        std::fs::write(&files.memory, vec![0; 1 << 20]).unwrap();
        Ok(())
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        self.channel.take().ok_or(VmmError::NoChannel)
    }

    fn started_in(&self) -> Duration {
        Duration::ZERO
    }

    fn process(&self) -> Arc<dyn VmmProcess> {
        Arc::clone(&self.life) as Arc<dyn VmmProcess>
    }
}

impl Drop for SimulatedVm {
    fn drop(&mut self) {
        self.life.kill();
        self.world.dropped();
    }
}

fn refused(operation: &str) -> VmmError {
    VmmError::Refused {
        operation: operation.to_owned(),
        message: "by chance".to_owned(),
    }
}

fn timed_out(operation: &'static str) -> VmmError {
    VmmError::TimedOut {
        operation,
        after: SLOW_DELAY,
    }
}
