//! The snapshot pool: spawns from the best tier there is, and fills itself up again.
//!
//! ```text
//!   spawn ──▶ slots (policy, no I/O) ──▶ warm clone ─▶ restore ─▶ cold boot
//!                  ▲        │ actions
//!          results │        ▼
//!                  └── driver task ──▶ builds, restores, deletions
//! ```

mod driver;
mod error;
pub(crate) mod slots;
mod stats;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::vm::identity::VmName;
use crate::vm::launcher::{LaunchError, Launcher, PausedClone, blocking};
use crate::vm::process;
use crate::vm::snapshot::Snapshot;
use crate::vm::vm_handle::{Origin, Timings, VmHandle};
use slots::{Rules, Served, Slots};
use stats::Counters;

pub use error::{PoolError, SpawnError};
pub use stats::PoolStats;

/// What a pool keeps ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Snapshots, at least 1.
    pub size: usize,
    /// How many of them have a warm clone in front of them; at most `size` count.
    pub warm: usize,
    /// Age at which a snapshot gets a successor.
    pub refresh: Duration,
}

/// A snapshot pool; cheap to clone. It lives until its last handle is dropped, in the async
/// runtime that opened it.
#[derive(Debug, Clone)]
pub struct Pool {
    core: Arc<Core>,
    driver: Arc<Driver>,
}

/// How long a refill waits for the spawn that made it necessary.
const REFILL_AFTER: Duration = Duration::from_millis(20);

/// Lets the driver refill on drop.
struct Refill<'a>(&'a Notify);

impl Drop for Refill<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Serves a warm clone, and starts nothing beside it: another VMM's start takes processors and
/// locks of the kernel that the resume needs.
async fn serve_alone(
    clone: PausedClone,
    name: &VmName,
    refill: Refill<'_>,
) -> Result<VmHandle, LaunchError> {
    let mut serve = std::pin::pin!(clone.serve(name, Origin::Warm));
    tokio::select! {
        served = &mut serve => return served,
        () = tokio::time::sleep(REFILL_AFTER) => drop(refill),
    }
    serve.await
}

/// Ends the driver with the last handle.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What handles and the driver share.
#[derive(Debug)]
struct Core {
    launcher: Launcher,
    options: PoolOptions,
    slots: Mutex<Slots<Snapshot, PausedClone>>,
    opened: Instant,
    wake: Notify,
    /// Moves whenever a build or a restore ended.
    progress: watch::Sender<Progress>,
    counters: Counters,
    /// Starting VMMs is work for processors: more at a time than there are is slower for all.
    starts: Semaphore,
    leases: Arc<()>,
    /// Asks the driver to end, and tells that it has.
    closing: CancellationToken,
    closed: CancellationToken,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    failures: u64,
    last_failure: Option<Arc<LaunchError>>,
}

impl Core {
    fn slots(&self) -> MutexGuard<'_, Slots<Snapshot, PausedClone>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.opened.elapsed()
    }
}

impl Pool {
    /// Opens a pool over the snapshots that `launcher`'s directory holds already. Nothing is
    /// built before the first spawn or warm-up.
    ///
    /// # Errors
    /// [`PoolError`] if the directory can't be read or the options make no pool.
    pub async fn open(launcher: Launcher, options: PoolOptions) -> Result<Self, PoolError> {
        if options.size == 0 {
            return Err(PoolError::NoPlaces);
        }
        let store = launcher.snapshots().clone();
        let listed = blocking(move || {
            store.sweep()?;
            store.list()
        })
        .await?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let rules = Rules {
            size: options.size,
            warm: options.warm,
            refresh: options.refresh,
            builds: processors,
        };
        let mut slots = Slots::new(rules);
        // The youngest first: they have the longest to live.
        for entry in listed.iter().rev() {
            let Ok(manifest) = &entry.state else { continue };
            if launcher.requirements().check(manifest).is_err() {
                continue;
            }
            match launcher.load(entry.id).await {
                Ok(snapshot) => {
                    let age = manifest.created.age();
                    if !slots.adopt(snapshot, age, Duration::ZERO) {
                        break;
                    }
                }
                // Another process deletes it just now.
                Err(error) => tracing::debug!(id = %entry.id, %error, "not adopted"),
            }
        }
        let core = Arc::new(Core {
            launcher,
            options,
            slots: Mutex::new(slots),
            opened: Instant::now(),
            wake: Notify::new(),
            progress: watch::Sender::new(Progress::default()),
            counters: Counters::default(),
            starts: Semaphore::new(processors),
            leases: Arc::new(()),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        let driver = Driver(tokio::spawn(driver::run(Arc::clone(&core))));
        Ok(Self {
            core,
            driver: Arc::new(driver),
        })
    }

    /// What the pool makes its VMs with.
    #[must_use]
    pub fn launcher(&self) -> &Launcher {
        &self.core.launcher
    }

    /// A VM of one's own, from the best tier that serves.
    ///
    /// # Errors
    /// [`SpawnError`] says for each tier that was tried why it failed.
    pub async fn spawn(&self, name: &str) -> Result<VmHandle, SpawnError> {
        let start = Instant::now();
        let core = &*self.core;
        let name = VmName::parse(name)?;
        let mut failed = Vec::new();
        loop {
            let served = core.slots().acquire();
            let refill = Refill(&core.wake);
            let (tier, begun) = (start.elapsed(), Instant::now());
            let (handle, started) = match served {
                Served::Warm(clone) => match serve_alone(clone, &name, refill).await {
                    Ok(handle) => (handle, Duration::ZERO),
                    Err(error) => {
                        core.counters.fell_back(Origin::Warm, &error);
                        failed.push((Origin::Warm, error));
                        continue;
                    }
                },
                Served::Restore(snapshot) => {
                    drop(refill);
                    match self.restore(&snapshot, &name).await {
                        Ok(served) => served,
                        Err(error) => {
                            core.counters.fell_back(Origin::Restored, &error);
                            if error.may_be_the_snapshots() {
                                driver::give_up(&self.core, snapshot);
                            }
                            failed.push((Origin::Restored, error));
                            self.boot(&name, failed).await?
                        }
                    }
                }
                Served::Boot => {
                    drop(refill);
                    self.boot(&name, failed).await?
                }
            };
            core.counters.served(handle.origin());
            let timings = Timings {
                acquire: tier,
                start: started,
                ready: begun.elapsed().saturating_sub(started),
                total: start.elapsed(),
            };
            return Ok(handle
                .with_timings(timings)
                .with_lease(Arc::clone(&core.leases)));
        }
    }

    async fn restore(
        &self,
        snapshot: &Snapshot,
        name: &VmName,
    ) -> Result<(VmHandle, Duration), LaunchError> {
        let start = Instant::now();
        let permit = self
            .core
            .starts
            .acquire()
            .await
            .map_err(|_| LaunchError::ShuttingDown)?;
        let clone = self.core.launcher.clone_of(snapshot).await?;
        drop(permit);
        let started = start.elapsed();
        Ok((clone.serve(name, Origin::Restored).await?, started))
    }

    async fn boot(
        &self,
        name: &VmName,
        mut failed: Vec<(Origin, LaunchError)>,
    ) -> Result<(VmHandle, Duration), SpawnError> {
        let permit = self.core.starts.acquire().await;
        let result = match permit {
            Ok(_permit) => self.core.launcher.cold_boot_named(name).await,
            Err(_) => Err(LaunchError::ShuttingDown),
        };
        match result {
            Ok(handle) => Ok((handle, Duration::ZERO)),
            Err(error) => {
                self.core.counters.fell_back(Origin::ColdBooted, &error);
                failed.push((Origin::ColdBooted, error));
                Err(SpawnError::Failed(error::Tiers(failed)))
            }
        }
    }

    /// Builds the snapshots that are missing and fills the warm places; returns when all are
    /// full.
    ///
    /// # Errors
    /// [`PoolError::WarmUp`] with the first failure; the pool itself goes on trying.
    pub async fn warmup(&self) -> Result<(), PoolError> {
        let mut progress = self.core.progress.subscribe();
        let before = progress.borrow_and_update().failures;
        self.core.slots().want();
        self.core.wake.notify_one();
        loop {
            if self.core.slots().is_full() {
                return Ok(());
            }
            // The sender lives in the core.
            let _ = progress.changed().await;
            let now = progress.borrow_and_update().clone();
            if let Some(error) = now.last_failure.filter(|_| now.failures > before) {
                return Err(PoolError::WarmUp(error));
            }
        }
    }

    /// The pool at this moment.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let counts = self.core.slots().counts();
        // One reference is the pool's own.
        let leased = Arc::strong_count(&self.core.leases) - 1;
        self.core
            .counters
            .snapshot(&self.core.options, counts, leased)
    }

    /// Process ids of the warm clones' VMMs, for statistics of the host.
    #[must_use]
    pub fn warm_pids(&self) -> Vec<u32> {
        self.core.slots().warm().map(PausedClone::pid).collect()
    }

    /// Ends the warm clones and whatever is under way, and waits until their processes are gone.
    /// VMs that were handed out live on.
    pub async fn close(self) {
        self.core.closing.cancel();
        self.core.closed.cancelled().await;
        drop(self.core.slots().drain());
        process::dropped_ones_ended().await;
    }

    /// Whether the runtime that the pool was opened in is still there.
    pub(crate) fn is_alive(&self) -> bool {
        !self.driver.0.is_finished()
    }
}
