//! Finds another process's snapshot before making one: several processes that start at once must
//! not each boot what one boot can provide for all.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{LaunchError, Launcher, Stage, blocking};
use crate::vm::snapshot::{Kept, Search, Snapshot, SnapshotId, Staging, Theirs};

/// Timeout of the wait for other processes, which take some seconds for a snapshot on an idle
/// machine. One that hangs must not keep this process from making its own.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval of checks of what they do.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The result of a search.
#[derive(Debug)]
pub(crate) enum Sought {
    /// A snapshot of another process.
    Found(Snapshot),
    /// None was found: a place to make one.
    Ours(Staging),
}

impl Launcher {
    /// Finds a snapshot that fits, is not in `known`, and is at most `age` old. Waits for one that
    /// another process is making, and reports that as progress; adds one that takes too long to
    /// `known`.
    pub(crate) async fn seek(
        &self,
        known: &mut HashSet<SnapshotId>,
        age: Duration,
    ) -> Result<Sought, LaunchError> {
        let start = Instant::now();
        // Keeps what was waited for until the next search.
        let mut _kept: Option<Kept> = None;
        loop {
            let (inner, not_these) = (Arc::clone(&self.0), known.clone());
            // A snapshot that is made during the wait is younger than required.
            let age = age.saturating_add(start.elapsed());
            let search = move || inner.snapshots.search(&inner.requirements, &not_these, age);
            let theirs = match blocking(search).await? {
                Search::Found(snapshot) => return Ok(Sought::Found(snapshot)),
                Search::Ours(staging) => return Ok(Sought::Ours(staging)),
                Search::Theirs(theirs) => theirs,
            };
            (self.0.progress)(&Stage::WaitingForSnapshot(theirs.owners.clone()));
            let patience = WAIT_TIMEOUT.saturating_sub(start.elapsed());
            let (owners, id) = (theirs.owners.clone(), theirs.id);
            match timeout(patience, wait_published(theirs)).await {
                Ok(kept) => _kept = Some(kept?),
                Err(_) => {
                    tracing::warn!("{owners} took too long to build a snapshot: one is built here");
                    // Not waited for again, for the next slot.
                    known.insert(id);
                    let inner = Arc::clone(&self.0);
                    let stage = move || inner.snapshots.stage(&inner.requirements);
                    return Ok(Sought::Ours(blocking(stage).await?));
                }
            }
        }
    }
}

/// Resolves when another process has made its snapshot, or ended.
async fn wait_published(theirs: Theirs) -> Result<Kept, LaunchError> {
    let theirs = Arc::new(theirs);
    loop {
        let look = Arc::clone(&theirs);
        if let Some(kept) = blocking(move || look.poll_published()).await? {
            return Ok(kept);
        }
        // Polls: the kernel reports a free file lock only to a thread that blocks on it.
        sleep(CHECK_INTERVAL).await;
    }
}
