//! A clone of a snapshot: running as restored, or held until its lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ironclaw_protocol::message::{Identity, SetIdentity};
use tokio::time::timeout;

use super::blocking::blocking;
use super::error::LaunchError;
use super::warm_up::{Warmed, warm_up};
use crate::template::Template;
use crate::vm::causes::with_causes;
use crate::vm::guest::{Command, Guest, GuestError};
use crate::vm::identity::{self, VmName};
use crate::vm::instance::Lineage;
use crate::vm::snapshot::{Snapshot, SnapshotError};
use crate::vm::vm_handle::{Origin, Timings, Vm, VmHandle};
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{Exit, Images, MicroVm, Standby, Vmm, VmmError};

/// Timeout of a clone's confirmation of its identity, which takes milliseconds on an idle machine.
pub(super) const IDENTITY_TIMEOUT: Duration = Duration::from_secs(15);
/// Number of runs through the path of a lease while a clone is primed. Under a translator the
/// second one is fast already; the others are for rare work of a kernel.
const PRIMING_ROUNDS: usize = 3;
/// The operation at the start of a clone's lease.
const SERVE: &str = "serve a clone";
/// Timeout of priming.
const PRIMING_TIMEOUT: Duration = Duration::from_secs(30);
/// The factor by which a held clone may be slower to confirm its identity than when it was primed:
/// it may be one of fifty that are released at once, on one processor.
const MAX_SLOWDOWN: u32 = 50;
/// The limits of that timeout. The minimum is a thousand times the time under KVM, and some hundred
/// times that under translation: a busy host may let a process wait for seconds. At the maximum,
/// the next tier would have served already.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// A clone whose agent can be reached.
#[derive(Debug)]
struct Clone {
    vm: Vm,
    begun: Instant,
    timings: Timings,
}

/// A running clone with the identity of its snapshot. Only the agent runs in it, which waits for
/// us.
#[derive(Debug)]
pub(crate) struct RunningClone(Clone);

/// A clone that is held until its lease.
#[derive(Debug)]
pub(crate) struct PausedClone {
    clone: Clone,
    /// Its timeout to confirm its identity.
    patience: Duration,
}

/// Returns the timeout of a clone that took `primed` when it was primed.
fn patience(primed: Duration) -> Duration {
    let slower = primed.saturating_mul(MAX_SLOWDOWN);
    slower.clamp(MIN_ANSWER_TIMEOUT, MAX_ANSWER_TIMEOUT)
}

impl RunningClone {
    /// Restores a clone of `snapshot` and connects to its agent.
    pub(super) async fn start(
        vmm: &dyn Vmm,
        snapshot: &Snapshot,
        standby: Option<Box<dyn Standby>>,
        lineage: &Arc<Lineage>,
    ) -> Result<Self, LaunchError> {
        let begun = Instant::now();
        let mut vm = match restore(vmm, snapshot, standby, &lineage.images).await {
            Ok(vm) => vm,
            Err(error) => return Err(or_defect(snapshot, error).await),
        };
        let timings = Timings {
            start: vm.started_in(),
            load: begun.elapsed().saturating_sub(vm.started_in()),
            ..Timings::default()
        };
        let stream = timeout(IDENTITY_TIMEOUT, vm.guest_channel())
            .await
            .map_err(|_| GuestError::NoAnswer {
                operation: "accept a connection",
                after: IDENTITY_TIMEOUT,
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

    /// Primes it: runs it through the path of a lease, so that its working set is in memory and its
    /// code translated, then holds it. Tests also whether it answers after a hold, so that no spawn
    /// has to find that out. Entropy, clock and names that it gets here are replaced when it is
    /// served. What makes guests of the template warm runs once more, before that path: its memory is
    /// read from the snapshot's file, and its own, before anybody waits for that. It may fill a
    /// translator's cache, which is emptied then: the path of a lease has to be in it.
    pub(crate) async fn prime(self, template: &Template) -> Result<PausedClone, LaunchError> {
        let Self(mut clone) = self;
        let died = clone.vm.process().died();
        let primed = tokio::select! {
            // Checked first: it explains the effects of its end on the connection.
            biased;
            _ = died => Err(clone.died("prime a clone").await),
            primed = clone.prime(template) => primed,
        };
        let patience = primed?;
        // Nobody waited for it.
        clone.timings = Timings::default();
        Ok(PausedClone { clone, patience })
    }

    /// Tests whether it would serve: as it is, and after a hold. It is gone then.
    pub(super) async fn try_tiers(self, template: &Template) -> Result<(), (Origin, LaunchError)> {
        let exited = self.0.vm.process().exited();
        let tried = async {
            let new = identity::fresh(&identity::anonymous()).map_err(LaunchError::from);
            let restored = async {
                Ok(self
                    .0
                    .vm
                    .guest()
                    .set_identity(new?, IDENTITY_TIMEOUT)
                    .await?)
            };
            restored.await.map_err(|error| (Origin::Restored, error))?;
            let held = self.prime(template).await;
            held.map(drop).map_err(|error| (Origin::Warm, error))
        };
        let tried = tried.await;
        // The run directory is empty again, too. A stuck process is reaped whenever it ends.
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
        self.serve_as(identity::fresh(name)?, name, origin).await
    }

    /// Gives it this identity.
    pub(crate) async fn serve_as(
        self,
        new: SetIdentity,
        name: &VmName,
        origin: Origin,
    ) -> Result<VmHandle, LaunchError> {
        let Self(mut clone) = self;
        let identity = new.identity.clone();
        tokio::select! {
            biased;
            _ = clone.vm.process().died() => return Err(clone.died(SERVE).await),
            served = clone.vm.guest().set_identity(new, IDENTITY_TIMEOUT) => served?,
        }
        let Timings { start, load, .. } = clone.timings;
        clone.timings.hello = clone.begun.elapsed().saturating_sub(start + load);
        Ok(clone.hand_out(name, identity, origin))
    }
}

/// Returns that error, unless damaged files of the snapshot are the reason, however the VMM failed.
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
    images: &Images,
) -> Result<Box<dyn MicroVm>, VmmError> {
    let spec = snapshot.to_restore_with(images);
    if let Some(standby) = standby {
        match standby.restore(&spec).await {
            // It ended for any reason while standing by: a process started now reports more.
            Err(VmmError::Died { .. }) => {}
            restored => return restored,
        }
    }
    vmm.restore(&spec).await
}

/// Returns that error for a clone that was released.
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

    /// Releases it and gives it an identity of its own. Sends both together: the request is on the
    /// line when the guest's vCPUs start.
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
            let restored = clone.vm.guest().set_identity(new, patience);
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
    /// Leaves it held; returns its timeout for an answer after its release.
    async fn prime(&mut self, template: &Template) -> Result<Duration, LaunchError> {
        self.warm_up(template).await?;
        let (guest, name) = (self.vm.guest(), identity::anonymous());
        let mut took = Duration::ZERO;
        for _ in 0..PRIMING_ROUNDS {
            let begun = Instant::now();
            guest
                .set_identity(identity::fresh(&name)?, PRIMING_TIMEOUT)
                .await?;
            took = begun.elapsed();
            match guest
                .exec(Command::new("/bin/true").timeout(PRIMING_TIMEOUT))
                .await
            {
                // A template need not have that program; the path of the answer is warm anyway.
                Ok(_) | Err(GuestError::Failed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            guest.ping(PRIMING_TIMEOUT).await?;
        }
        let patience = patience(took);
        self.vm.hold().await?;
        self.vm.release().await?;
        let confirmed = guest.set_identity(identity::fresh(&name)?, patience).await;
        confirmed.map_err(not_released)?;
        self.vm.hold().await?;
        Ok(patience)
    }

    /// Runs what makes guests of the template warm, with an identity of its own: what it draws from the
    /// entropy is no other clone's.
    async fn warm_up(&self, template: &Template) -> Result<(), LaunchError> {
        if template.manifest().warm.is_none() {
            return Ok(());
        }
        let guest = self.vm.guest();
        let new = identity::fresh(&identity::anonymous())?;
        guest.set_identity(new, PRIMING_TIMEOUT).await?;
        for warmed in warm_up(guest, template).await? {
            let Warmed {
                command,
                took,
                printed,
            } = warmed;
            tracing::debug!(command, ?took, printed, "a clone is warmed up");
        }
        Ok(())
    }

    /// Reported after its cleanup, which the next attempt may need.
    async fn died(&self, operation: &'static str) -> LaunchError {
        let exit = self.vm.process().exited().await;
        VmmError::Died { operation, exit }.into()
    }

    fn hand_out(self, name: &VmName, identity: Identity, origin: Origin) -> VmHandle {
        let Self { vm, timings, .. } = self;
        vm.hand_out(name, identity, origin).with_timings(timings)
    }
}
