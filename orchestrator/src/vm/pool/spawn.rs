//! A spawn: its admission, then one tier after the other.

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tracing::Instrument as _;

use super::active_spawns::ActiveSpawn;
use super::core::{Core, Effects};
use super::error::Tiers;
use super::lease::Lease;
use super::processor_time::ProcessorTime;
use super::starts::{Permit, Start};
use super::state::Placement;
use super::waiter::Waiter;
use super::{Pool, SpawnError, SpawnOptions, driver};
use crate::vm::identity::VmName;
use crate::vm::launcher::{Fault, LaunchError, PausedClone};
use crate::vm::snapshot::Snapshot;
use crate::vm::vm_handle::{Origin, Timings, VmHandle};

/// Limit of the clones tried before the VM is booted: each may take long to fail.
const MAX_CLONES: usize = 3;

impl Pool {
    /// Spawns a VM from the best tier that serves.
    ///
    /// # Errors
    /// As for [`spawn_with`](Self::spawn_with).
    pub async fn spawn(&self, name: &str) -> Result<VmHandle, SpawnError> {
        self.spawn_with(SpawnOptions::named(name)).await
    }

    /// Spawns a VM from the best tier that serves. Dropping the future cancels the spawn, at any
    /// point.
    ///
    /// # Errors
    /// [`SpawnError::PoolExhausted`] if there was no room in time, [`SpawnError::StartsBusy`] if
    /// others were started first; [`SpawnError::Failed`] with the reason of each tier that was
    /// tried, and [`SpawnError::TimedOut`] with those until the spawn's own limit.
    /// [`SpawnError::RuntimeEnded`] if the async runtime that opened the pool has ended.
    pub async fn spawn_with(&self, options: SpawnOptions) -> Result<VmHandle, SpawnError> {
        if self.core.has_no_runtime() {
            return Err(SpawnError::RuntimeEnded);
        }
        let limit = options.timeout;
        let mut failed = Vec::new();
        let span = tracing::info_span!("spawn", name = options.name);
        let late = async {
            match limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            served = self.serve(options, &mut failed).instrument(span) => return served,
            () = self.core.runtime_ended() => return Err(SpawnError::RuntimeEnded),
            () = late => {}
        }
        Err(SpawnError::TimedOut {
            after: limit.unwrap_or_default(),
            tiers: Tiers(failed),
        })
    }

    async fn serve(
        &self,
        options: SpawnOptions,
        failed: &mut Vec<(Origin, LaunchError)>,
    ) -> Result<VmHandle, SpawnError> {
        let core = &*self.core;
        let name = VmName::parse(&options.name)?;
        let wait = Wait::begin(options.patience);
        let (lease, placement, effects) = self.turn(&wait).await?;
        let mut spawn = Spawn {
            core,
            name: &name,
            queue: wait.begun.elapsed(),
            wait,
            failed,
            stood_by: false,
            taken: Taken::new(core, effects),
        };
        let handle = spawn.serve(&lease, placement).await?;
        let timings = spawn.timings(&handle);
        core.counters.served(handle.origin(), &timings);
        let ((), effects) = core.update(|state, _| state.serves(lease.id(), handle.origin()));
        spawn.taken.keep(effects);
        if handle.origin() != Origin::Warm {
            spawn.taken.keep(driver::vmm_works(core));
        }
        if spawn.stood_by && timings.start.is_zero() {
            spawn.taken.keep(core.standby_served());
        }
        Ok(handle
            .with_timings(timings)
            .holding(Box::new(lease))
            .listed_in(&core.vms)
            .limited(options.limits))
    }

    /// Waits for room; returns its lease, the placement, and the effects on the pool.
    async fn turn(
        &self,
        wait: &Wait,
    ) -> Result<(Lease, Placement<Snapshot, PausedClone>, Option<Effects>), SpawnError> {
        let core = &self.core;
        let (turn, effects) = core.update(|state, now| {
            // A pool that closes cancels first and locks the state then: every later lock sees
            // that.
            if core.closing.is_cancelled() {
                return Err(SpawnError::Closed);
            }
            let turn = state.acquire_or(now, |id| Waiter::new(core, id));
            Ok(turn.map(|grant| (Lease::new(grant.lease, grant.share, core), grant.placement)))
        });
        let mut waiter = match turn? {
            Ok((lease, placement)) => return Ok((lease, placement, Some(effects))),
            Err(waiter) => waiter,
        };
        // The driver notices room that was released meanwhile.
        core.wake(effects);
        tokio::select! {
            turn = waiter.turn() => {
                let (lease, placement) = turn.ok_or(SpawnError::Closed)?;
                Ok((lease, placement, None))
            }
            () = wait.over() => Err(wait.exhausted(core)),
        }
    }
}

/// The time for which a spawn may wait.
struct Wait {
    begun: Instant,
    /// `None`: for ever.
    until: Option<Instant>,
}

impl Wait {
    fn begin(patience: Duration) -> Self {
        let begun = Instant::now();
        let until = begun.checked_add(patience);
        Self { begun, until }
    }

    async fn over(&self) {
        match self.until {
            Some(until) => sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    }

    fn exhausted(&self, core: &Core) -> SpawnError {
        SpawnError::PoolExhausted {
            waited: self.begun.elapsed(),
            limit: core
                .bounds
                .budget
                .limit_met(u64::from(core.launcher.machine().memory_mib)),
        }
    }
}

/// A spawn that has a lease.
struct Spawn<'a> {
    core: &'a Core,
    name: &'a VmName,
    wait: Wait,
    /// The part of its time that it waited.
    queue: Duration,
    failed: &'a mut Vec<(Origin, LaunchError)>,
    /// Whether a standby process is to serve.
    stood_by: bool,
    taken: Taken<'a>,
}

/// The changes of a spawn to the pool. Replacing what it took needs processors, so the driver is
/// woken only when the spawn is over, however it ends.
struct Taken<'a> {
    core: &'a Core,
    /// A single effect wakes the driver for all.
    effects: Option<Effects>,
    /// Set while a clone serves.
    active: Option<ActiveSpawn<'a>>,
}

impl<'a> Taken<'a> {
    fn new(core: &'a Core, effects: Option<Effects>) -> Self {
        Self {
            core,
            effects,
            active: None,
        }
    }

    /// Records that a clone begins to serve.
    fn begin(&mut self) {
        self.active = Some(self.core.host.active_spawns.begin());
    }

    /// Records a further change.
    fn keep(&mut self, effects: Effects) {
        self.effects = Some(effects);
    }

    /// Records that no clone serves (any more): refills may go on.
    fn settle(&mut self) {
        self.active = None;
        if let Some(effects) = self.effects.take() {
            self.core.wake(effects);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl<'a> Spawn<'a> {
    async fn serve(
        &mut self,
        lease: &Lease,
        mut placement: Placement<Snapshot, PausedClone>,
    ) -> Result<VmHandle, SpawnError> {
        loop {
            placement = match placement {
                Placement::Warm(clone) => match self.resume(clone).await {
                    Ok(handle) => return Ok(handle),
                    Err(error) => {
                        // Another one would most likely take the same time.
                        let best = if error.took_its_time() {
                            Origin::Restored
                        } else {
                            Origin::Warm
                        };
                        self.failed(Origin::Warm, error);
                        self.again(lease, best)
                    }
                },
                Placement::Restore(generation, snapshot) => {
                    self.taken.settle();
                    match self.restore(&snapshot).await? {
                        Ok(handle) => return Ok(handle),
                        Err(error) => {
                            // Released first: it can't be deleted while in use.
                            drop(snapshot);
                            let (fault, slow) = (error.fault(), error.took_its_time());
                            self.failed(Origin::Restored, error);
                            driver::blame(self.core, generation, fault);
                            if fault != Fault::Other && !slow {
                                self.again(lease, Origin::Warm)
                            } else {
                                self.fall_back_to_boot(lease)
                            }
                        }
                    }
                }
                Placement::Boot => {
                    self.taken.settle();
                    return self.boot().await;
                }
            }
        }
    }

    fn failed(&mut self, tier: Origin, error: LaunchError) {
        self.stood_by = false;
        self.taken.settle();
        self.core.counters.fell_back(tier, &error);
        self.core.tier_failed(tier, &error);
        self.failed.push((tier, error));
    }

    /// Returns the best placement after a failure, from the tier `best` down.
    fn again(&self, lease: &Lease, best: Origin) -> Placement<Snapshot, PausedClone> {
        // A snapshot whose files are gone fails at once.
        let slow = |(_, error): &&(_, LaunchError)| !matches!(error, LaunchError::Snapshot(_));
        if self.failed.iter().filter(slow).count() >= MAX_CLONES {
            return self.fall_back_to_boot(lease);
        }
        self.core
            .apply(|state, now| state.fall_back(lease.id(), best, now))
    }

    fn fall_back_to_boot(&self, lease: &Lease) -> Placement<Snapshot, PausedClone> {
        self.core.apply(|state, _| {
            state.fall_back_to_boot(lease.id());
            Placement::Boot
        })
    }

    async fn resume(&mut self, clone: PausedClone) -> Result<VmHandle, LaunchError> {
        self.taken.begin();
        clone.serve(self.name, Origin::Warm).await
    }

    async fn restore(
        &mut self,
        snapshot: &Snapshot,
    ) -> Result<Result<VmHandle, LaunchError>, SpawnError> {
        let permit = self.permit(Start::Restore).await?;
        let begun = Instant::now();
        let (standby, effects) = self.core.take_standby();
        self.stood_by = standby.is_some();
        self.taken.keep(effects);
        self.taken.begin();
        let clone = self.core.launcher.clone_of(snapshot, standby).await;
        if let Ok(clone) = &clone
            && !self.stood_by
            && self.core.host.starts.is_due()
        {
            let took = begun.elapsed();
            self.core
                .host
                .starts
                .measured(took, ProcessorTime::of(clone.pid()));
        }
        drop(permit);
        Ok(match clone {
            Ok(clone) => clone.serve(self.name, Origin::Restored).await,
            Err(error) => Err(error),
        })
    }

    async fn boot(&mut self) -> Result<VmHandle, SpawnError> {
        let _permit = self.permit(Start::Boot).await?;
        match self.core.launcher.cold_boot_named(self.name).await {
            Ok(handle) => Ok(handle),
            Err(error) => {
                driver::vmm_fails(self.core);
                self.failed(Origin::ColdBooted, error);
                Err(SpawnError::Failed(Tiers(std::mem::take(self.failed))))
            }
        }
    }

    /// Waits for permission to start a VMM.
    async fn permit(&mut self, start: Start) -> Result<Permit, SpawnError> {
        let begun = Instant::now();
        let core = self.core;
        let permit = tokio::select! {
            biased;
            permit = core.host.starts.acquire(start) => permit,
            () = self.wait.over() => return Err(SpawnError::StartsBusy {
                waited: self.wait.begun.elapsed(),
                starts: core.host.starts.limit(start),
            }),
        };
        self.queue += begun.elapsed();
        Ok(permit)
    }

    /// Adds up the times of the stages.
    fn timings(&self, handle: &VmHandle) -> Timings {
        let total = self.wait.begun.elapsed();
        let stages = handle.timings();
        let Timings {
            start,
            load,
            resume,
            hello,
            ..
        } = stages;
        let served = self.queue + start + load + resume + hello;
        Timings {
            queue: self.queue,
            failed: total.saturating_sub(served),
            total,
            ..stages
        }
    }
}
