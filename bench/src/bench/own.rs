//! The resources that a bench creates on the host, and removes however it ends.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use ironclaw_console::causes;
use ironclaw_console::output::{self, blocking};
use ironclaw_console::progress::{self, Reporter};
use ironclaw_console::signals;
use ironclaw_orchestrator::vm::snapshot::{SnapshotId, SnapshotStore};
use ironclaw_orchestrator::vm::{Created, Launcher, Pool, PoolOptions, dropped_vms_ended};
use serde::Serialize;

/// The bench's own snapshots, and the open pools.
#[derive(Default)]
pub(super) struct Own {
    snapshots: Mutex<Vec<(SnapshotStore, SnapshotId)>>,
    /// A snapshot is being made: a thread that continues by itself publishes it.
    making: AtomicBool,
    pools: Mutex<Vec<Pool>>,
    /// No further pool is opened.
    stopped: AtomicBool,
}

impl Own {
    /// Measures, removes the resources, and shows the report.
    pub(super) async fn reported<T: Serialize>(
        &self,
        measure: impl AsyncFnOnce(&Reporter) -> Result<T>,
        json: bool,
        print: fn(&T) -> Result<()>,
    ) -> Result<()> {
        let reporter = Reporter::new();
        let report = self.measured(measure(&reporter)).await?;
        reporter.finish();
        if json {
            return output::json(&report);
        }
        print(&report)
    }

    /// Measures, then removes the resources. A signal stops it; a second one at once.
    pub(super) async fn measured<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let first = signals::first()?;
        let mut work = pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            signal = first => {
                if self.making.load(Ordering::Relaxed) || !lock(&self.snapshots).is_empty() {
                    // Its tasks make the snapshot, or have VMs of it: they end when the pools are
                    // gone.
                    self.stopped.store(true, Ordering::Relaxed);
                    let stop = async { Ok(tokio::join!(self.close_pools(), work)) };
                    // A closed pool is no news.
                    drop(signals::until_first(stop).await?);
                }
                Err(signal.into())
            }
        };
        let end = async {
            self.end().await;
            Ok(())
        };
        signals::until_first(end).await?;
        result
    }

    /// Makes a snapshot.
    pub(super) async fn create_snapshot(&self, launcher: &Launcher) -> Result<Created> {
        self.making.store(true, Ordering::Relaxed);
        let created = launcher.create_snapshot().await;
        if let Ok(created) = &created {
            let store = launcher.snapshots().clone();
            lock(&self.snapshots).push((store, created.snapshot.id()));
        }
        self.making.store(false, Ordering::Relaxed);
        Ok(created?)
    }

    /// Uses a pool, and closes it whatever the result.
    pub(super) async fn with_pool<T>(
        &self,
        launcher: &Launcher,
        options: PoolOptions,
        work: impl AsyncFnOnce(&Pool) -> Result<T>,
    ) -> Result<T> {
        let pool = Pool::open(launcher.clone(), options).await?;
        lock(&self.pools).push(pool.clone());
        if self.stopped.load(Ordering::Relaxed) {
            self.close_pools().await;
            bail!("no pool is opened any more");
        }
        let result = work(&pool).await;
        // The youngest: one that is opened in the work of another is closed there.
        let own = lock(&self.pools).pop();
        if let Some(pool) = own {
            pool.close().await;
        }
        result
    }

    /// Deletes the snapshots. One that another process uses meanwhile stays: it is as good as any,
    /// and is deleted when old.
    pub(super) async fn end(&self) {
        let own = std::mem::take(&mut *lock(&self.snapshots));
        if own.is_empty() {
            return;
        }
        // Their processes hold them until they are reaped.
        dropped_vms_ended().await;
        for (store, id) in own {
            if let Err(error) = blocking(move || store.delete(id)).await {
                let why = causes(error.as_ref());
                progress::note(&format!(
                    "warning: a snapshot of the bench's own stays: {why}"
                ));
            }
        }
    }

    async fn close_pools(&self) {
        let pools = std::mem::take(&mut *lock(&self.pools));
        for pool in pools {
            pool.close().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
