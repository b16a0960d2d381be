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

/// The bench's own snapshot, and the open pool.
#[derive(Default)]
pub(super) struct Own {
    snapshot: Mutex<Option<(SnapshotStore, SnapshotId)>>,
    /// The snapshot is being made: a thread that continues by itself publishes it.
    making: AtomicBool,
    pool: Mutex<Option<Pool>>,
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
                if self.making.load(Ordering::Relaxed) || lock(&self.snapshot).is_some() {
                    // Its tasks make the snapshot, or have VMs of it: they end when the pool is
                    // gone.
                    self.stopped.store(true, Ordering::Relaxed);
                    let stop = async { Ok(tokio::join!(self.close_pool(), work)) };
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

    /// Makes the snapshot.
    pub(super) async fn create_snapshot(&self, launcher: &Launcher) -> Result<Created> {
        self.making.store(true, Ordering::Relaxed);
        let created = launcher.create_snapshot().await;
        if let Ok(created) = &created {
            let store = launcher.snapshots().clone();
            *lock(&self.snapshot) = Some((store, created.snapshot.id()));
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
        *lock(&self.pool) = Some(pool.clone());
        if self.stopped.load(Ordering::Relaxed) {
            self.close_pool().await;
            bail!("no pool is opened any more");
        }
        let result = work(&pool).await;
        self.close_pool().await;
        result
    }

    /// Deletes the snapshot. One that another process uses meanwhile stays: it is as good as any,
    /// and is deleted when old.
    pub(super) async fn end(&self) {
        let Some((store, id)) = lock(&self.snapshot).take() else {
            return;
        };
        // Their processes hold it until they are reaped.
        dropped_vms_ended().await;
        if let Err(error) = blocking(move || store.delete(id)).await {
            let why = causes(error.as_ref());
            progress::note(&format!("warning: the bench's snapshot stays: {why}"));
        }
    }

    async fn close_pool(&self) {
        let pool = lock(&self.pool).take();
        if let Some(pool) = pool {
            pool.close().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
