//! Opens a pool: checks its options, adopts the snapshots that fit, and starts its driver.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::vm::host_limits;
use crate::vm::instance::Instance;
use crate::vm::launcher::{LaunchError, Launcher, blocking};
use crate::vm::snapshot::{Kind, SnapshotId};
use crate::vm::vms::PoolVms;

use super::core::{Bounds, Core, State};
use super::number::Number;
use super::options::PoolOptions;
use super::state::{PoolState, Rules};
use super::{Driver, Pool, PoolError, driver};

/// Open files of this process that a VM takes, about.
const FILES_PER_VM: u64 = 8;

/// Minimum age of a snapshot that garbage collection deletes: it may be for other settings, whose
/// pool shares the directory and runs now and then.
const MIN_GC_AGE: Duration = Duration::from_secs(24 * 60 * 60);

impl Pool {
    /// Opens a pool with a number of its own, and lists its VMs in `vms`; see [`Pool::open`].
    pub(crate) async fn open_as(
        number: Number,
        vms: PoolVms<Instance>,
        launcher: Launcher,
        options: PoolOptions,
    ) -> Result<Self, PoolError> {
        let PoolOptions {
            size,
            min_warm,
            max_warm,
            standby,
            refresh,
            budget,
        } = options;
        if size == 0 {
            return Err(PoolError::NoPlaces);
        }
        if min_warm > max_warm {
            return Err(PoolError::WarmRange { min_warm, max_warm });
        }
        let guest_mib = u64::from(launcher.machine().memory_mib);
        if !budget.could_hold(guest_mib) {
            let limit = budget.limit();
            return Err(PoolError::NoRoom { guest_mib, limit });
        }
        tell_of_few_files(max_warm.min(budget.holds(launcher.machine().memory_mib)));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let mut state = PoolState::new(Rules {
            size,
            min_warm,
            max_warm,
            refresh,
            builds: processors,
            guest_mib,
            budget: budget.clone(),
            seed,
        });
        let seen = adopt(&launcher, &mut state).await?;
        let (vmm, machine) = (launcher.hypervisor(), launcher.machine());
        let standby = budget.host().standby.join(&vmm, machine, standby, seed);
        let core = Arc::new(Core::new(
            number,
            vms,
            launcher,
            Bounds {
                size,
                budget,
                gc_after: match refresh {
                    // Never replaced by this pool, but still garbage when nobody uses it.
                    Duration::MAX => MIN_GC_AGE,
                    refresh => refresh.max(MIN_GC_AGE),
                },
            },
            state,
            standby,
            seen,
        ));
        let closed = core.closed.clone().drop_guard();
        let driver = Driver(tokio::spawn(driver::run(Arc::clone(&core), closed)));
        Ok(Self {
            core,
            driver: Arc::new(driver),
        })
    }
}

/// Warns if this process may not have the open files that so many warm clones take: spawns would fail
/// for that before they fail for lack of room.
pub(super) fn tell_of_few_files(clones: usize) {
    let takes = FILES_PER_VM.saturating_mul(u64::try_from(clones).unwrap_or(u64::MAX));
    if let Some(limit) = host_limits::open_files().filter(|limit| *limit < takes) {
        tracing::warn!(
            "{clones} warm clones take some {takes} open files of this process, which may have \
             {limit} (ulimit -n): raise that, as `vm::raise_open_files` does, or keep fewer"
        );
    }
}

/// Adopts the existing snapshots that fit; returns their ids.
async fn adopt(launcher: &Launcher, state: &mut State) -> Result<HashSet<SnapshotId>, PoolError> {
    let (store, vmm) = (launcher.snapshots().clone(), launcher.hypervisor());
    let listed = blocking(move || -> Result<_, LaunchError> {
        vmm.prepare()?;
        if store.is_read_only() {
            tracing::warn!("{}", store.read_only());
        } else {
            store.sweep()?;
        }
        Ok(store.list()?)
    })
    .await?;
    let mut adopted = HashSet::new();
    // The youngest first: they have the longest to live.
    for entry in listed.iter().rev() {
        let Ok(manifest) = &entry.state else { continue };
        // A checkpoint is a user's, with whatever was done in its VM.
        if manifest.kind != Kind::Base || launcher.requirements().check(manifest).is_err() {
            continue;
        }
        match launcher.load(entry.id).await {
            Ok(snapshot) => {
                if !state.adopt(snapshot, manifest.created.age_or_overdue(), Duration::ZERO) {
                    break;
                }
                adopted.insert(entry.id);
            }
            // Another process is deleting it.
            Err(error) => tracing::debug!(id = %entry.id, %error, "not adopted"),
        }
    }
    Ok(adopted)
}
