//! Finds another process's snapshot before making one: several processes that start at once must
//! not each boot what one boot can provide for all.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{LaunchError, Launcher, Stage, blocking};
use crate::vm::snapshot::{FindOrBuild, InProgress, PublishedPin, SnapshotId};

/// Timeout of the wait for other processes, which take some seconds for a snapshot on an idle
/// machine. One that hangs must not keep this process from making its own.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval of checks of what they do.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl Launcher {
    /// Finds a snapshot that fits, is not in `known`, and is at most `age` old, or a place to build
    /// one. Waits for one that another process is building, and reports that as progress; adds one
    /// that takes too long to `known`.
    pub(crate) async fn find_or_build(
        &self,
        known: &mut HashSet<SnapshotId>,
        age: Duration,
    ) -> Result<FindOrBuild, LaunchError> {
        let start = Instant::now();
        // Keeps what was waited for until the next search.
        let mut _pin: Option<PublishedPin> = None;
        loop {
            let (inner, not_these) = (Arc::clone(&self.0), known.clone());
            // A snapshot that is made during the wait is younger than required.
            let age = age.saturating_add(start.elapsed());
            let search = move || inner.snapshots.search(&inner.requirements, &not_these, age);
            let in_progress = match blocking(search).await? {
                ControlFlow::Break(result) => return Ok(result),
                ControlFlow::Continue(in_progress) => in_progress,
            };
            (self.0.progress)(&Stage::WaitingForSnapshot(in_progress.owners.clone()));
            let patience = WAIT_TIMEOUT.saturating_sub(start.elapsed());
            let (owners, id) = (in_progress.owners.clone(), in_progress.id);
            match timeout(patience, wait_published(in_progress)).await {
                Ok(pin) => _pin = Some(pin?),
                Err(_) => {
                    tracing::warn!("{owners} took too long to build a snapshot: one is built here");
                    // Not waited for again, for the next slot.
                    known.insert(id);
                    let inner = Arc::clone(&self.0);
                    let stage = move || inner.snapshots.stage(&inner.requirements);
                    return Ok(FindOrBuild::Build(blocking(stage).await?));
                }
            }
        }
    }
}

/// Resolves when another process has made its snapshot, or ended.
async fn wait_published(in_progress: InProgress) -> Result<PublishedPin, LaunchError> {
    let in_progress = Arc::new(in_progress);
    loop {
        let look = Arc::clone(&in_progress);
        if let Some(pin) = blocking(move || look.poll_published()).await? {
            return Ok(pin);
        }
        // Polls: the kernel reports a free file lock only to a thread that blocks on it.
        sleep(CHECK_INTERVAL).await;
    }
}
