//! A clone of a snapshot: running, as the hypervisor restores it, or paused until its lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ironclaw_protocol::message::Identity;
use tokio::time::timeout;

use crate::vm::causes::with_causes;
use crate::vm::guest::{Command, Guest, GuestError};
use crate::vm::identity::{self, VmName};
use crate::vm::instance::Lineage;
use crate::vm::launcher::{LaunchError, READY, blocking};
use crate::vm::snapshot::{Snapshot, SnapshotError};
use crate::vm::vm_handle::{Origin, Timings, Vm, VmHandle};
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{Exit, MicroVm, Standby, Vmm, VmmError};

/// How often the path of a lease is run through while a clone is primed. Under a translator the
/// second round is fast already; the others are for what a kernel does only now and then.
const ROUNDS: usize = 3;
/// What a clone should do when its lease begins.
const SERVE: &str = "serve a clone";
/// The longest a priming may take.
const PRIMED: Duration = Duration::from_secs(30);
/// How many times longer than when it was primed a held clone may take to confirm its identity: it
/// may be one of fifty that are released at once, on one processor.
const SLOWER: u32 = 50;
/// But no less than this, which is a thousand times what it takes under KVM, and some hundred times
/// under translation: a host that is busy otherwise lets a process wait for seconds. And no more
/// than that: the next tier would have served meanwhile.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(6);

/// A clone whose agent can be reached.
#[derive(Debug)]
struct Clone {
    vm: Vm,
    begun: Instant,
    timings: Timings,
}

/// A clone with the identity of its snapshot, running. Only the agent runs in it, which waits
/// for us.
#[derive(Debug)]
pub(crate) struct RunningClone(Clone);

/// A clone that is held until its lease.
#[derive(Debug)]
pub(crate) struct PausedClone {
    clone: Clone,
    /// How long it may take to confirm its identity.
    patience: Duration,
}

/// How long a clone may take that took `primed` when it was primed.
fn patience(primed: Duration) -> Duration {
    let slower = primed.saturating_mul(SLOWER);
    slower.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
}

impl RunningClone {
    /// Restores a clone of `snapshot` and reaches its agent.
    pub(super) async fn start(
        vmm: &dyn Vmm,
        snapshot: &Snapshot,
        standby: Option<Box<dyn Standby>>,
        lineage: &Arc<Lineage>,
    ) -> Result<Self, LaunchError> {
        let begun = Instant::now();
        let mut vm = match restore(vmm, snapshot, standby).await {
            Ok(vm) => vm,
            Err(error) => return Err(or_defect(snapshot, error).await),
        };
        let timings = Timings {
            start: vm.started_in(),
            load: begun.elapsed().saturating_sub(vm.started_in()),
            ..Timings::default()
        };
        let stream =
            timeout(READY, vm.guest_channel())
                .await
                .map_err(|_| GuestError::NoAnswer {
                    operation: "accept a connection",
                    after: READY,
                })??;
        Ok(Self(Clone {
            vm: {
                let guest = Guest::of(&*vm.process(), stream)?;
                Vm::new(vm, guest, Some(snapshot.clone()), lineage)
            },
            begun,
            timings,
        }))
    }

    /// Runs it through what a lease does, so that its working set is in memory and its code
    /// translated, and holds it. Whether one that was held answers is tried here, too, so that no
    /// spawn has to. Entropy, clock and names that it gets here are replaced when it is served.
    pub(crate) async fn prime(self) -> Result<PausedClone, LaunchError> {
        let Self(mut clone) = self;
        let died = clone.vm.process().died();
        let primed = tokio::select! {
            // First, since it explains whatever its end did to the connection.
            biased;
            _ = died => Err(clone.died("prime a clone").await),
            primed = clone.prime() => primed,
        };
        let patience = primed?;
        // Nobody waited for that.
        clone.timings = Timings::default();
        Ok(PausedClone { clone, patience })
    }

    /// Whether it would serve: as it is, and after it was held. It is gone then.
    pub(super) async fn try_tiers(self) -> Result<(), (Origin, LaunchError)> {
        let exited = self.0.vm.process().exited();
        let tried = async {
            let new = identity::fresh(&identity::anonymous()).map_err(LaunchError::from);
            let restored = async { Ok(self.0.vm.guest().restored(new?, READY).await?) };
            restored.await.map_err(|error| (Origin::Restored, error))?;
            let held = self.prime().await;
            held.map(drop).map_err(|error| (Origin::Warm, error))
        };
        let tried = tried.await;
        // The run directory is empty again, too. One that is stuck is reaped whenever it ends.
        let _ = timeout(PROCESS_END_TIMEOUT, exited).await;
        tried
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.vm.process().pid()
    }

    /// Gives it an identity of its own.
    pub(crate) async fn serve(
        self,
        name: &VmName,
        origin: Origin,
    ) -> Result<VmHandle, LaunchError> {
        let Self(mut clone) = self;
        let new = identity::fresh(name)?;
        let identity = new.identity.clone();
        tokio::select! {
            biased;
            _ = clone.vm.process().died() => return Err(clone.died(SERVE).await),
            served = clone.vm.guest().restored(new, READY) => served?,
        }
        let Timings { start, load, .. } = clone.timings;
        clone.timings.hello = clone.begun.elapsed().saturating_sub(start + load);
        Ok(clone.hand_out(name, identity, origin))
    }
}

/// That error, unless the snapshot's own files are the reason, whatever the VMM made of that.
async fn or_defect(snapshot: &Snapshot, error: VmmError) -> LaunchError {
    let looked = snapshot.clone();
    match blocking(move || looked.check()).await {
        Err(defect @ LaunchError::Snapshot(SnapshotError::Defective { .. })) => {
            tracing::debug!(error = with_causes(&error), "what a defect led to");
            defect
        }
        _ => error.into(),
    }
}

async fn restore(
    vmm: &dyn Vmm,
    snapshot: &Snapshot,
    standby: Option<Box<dyn Standby>>,
) -> Result<Box<dyn MicroVm>, VmmError> {
    let spec = snapshot.to_restore();
    if let Some(standby) = standby {
        match standby.restore(&spec).await {
            // Of whatever, while it stood by: a process that is started now tells more.
            Err(VmmError::Died { .. }) => {}
            restored => return restored,
        }
    }
    vmm.restore(&spec).await
}

/// That error of a clone that was released.
fn not_released(error: GuestError) -> LaunchError {
    match error {
        GuestError::NoAnswer { after, .. } => LaunchError::NotReleased { after },
        error => error.into(),
    }
}

impl PausedClone {
    pub(crate) fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        self.clone.vm.process().exited()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.clone.vm.process().pid()
    }

    /// Releases it and gives it an identity of its own. The two go out together: the request is on
    /// the line when the guest's processors start.
    pub(crate) async fn serve(
        self,
        name: &VmName,
        origin: Origin,
    ) -> Result<VmHandle, LaunchError> {
        let Self {
            mut clone,
            patience,
        } = self;
        let begun = Instant::now();
        let new = identity::fresh(name)?;
        let identity = new.identity.clone();
        let died = clone.vm.process().died();
        let resume = async {
            clone.vm.release().await?;
            Ok::<_, LaunchError>(begun.elapsed())
        };
        let restored = async {
            let restored = clone.vm.guest().restored(new, patience);
            restored.await.map_err(not_released)
        };
        tokio::select! {
            biased;
            _ = died => return Err(clone.died(SERVE).await),
            served = async { tokio::try_join!(resume, restored) } => clone.timings.resume = served?.0,
        }
        clone.timings.hello = begun.elapsed().saturating_sub(clone.timings.resume);
        Ok(clone.hand_out(name, identity, origin))
    }
}

impl Clone {
    /// Leaves it held; returns how long it may take to answer when it is released.
    async fn prime(&mut self) -> Result<Duration, LaunchError> {
        let (guest, name) = (self.vm.guest(), identity::anonymous());
        let mut took = Duration::ZERO;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            guest.restored(identity::fresh(&name)?, PRIMED).await?;
            took = begun.elapsed();
            match guest.exec(Command::new("/bin/true").timeout(PRIMED)).await {
                // A template need not have that program; the path to the answer is warm.
                Ok(_) | Err(GuestError::Failed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            guest.ping(PRIMED).await?;
        }
        let patience = patience(took);
        self.vm.hold().await?;
        self.vm.release().await?;
        let confirmed = guest.restored(identity::fresh(&name)?, patience).await;
        confirmed.map_err(not_released)?;
        self.vm.hold().await?;
        Ok(patience)
    }

    /// Told when nothing of it is left, which the next try may need.
    async fn died(&self, operation: &'static str) -> LaunchError {
        let exit = self.vm.process().exited().await;
        VmmError::Died { operation, exit }.into()
    }

    fn hand_out(self, name: &VmName, identity: Identity, origin: Origin) -> VmHandle {
        let Self { vm, timings, .. } = self;
        vm.hand_out(name, identity, origin).with_timings(timings)
    }
}
