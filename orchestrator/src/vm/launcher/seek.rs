//! A snapshot of another process instead of one of our own: several that start at once must not
//! each boot what one boot could give to all.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{LaunchError, Launcher, Stage, blocking};
use crate::vm::snapshot::{Kept, Search, Snapshot, SnapshotId, Staging, Theirs};

/// How long other processes are waited for in all, which take some seconds for a snapshot on an
/// idle machine. One that hangs must not keep this one from making its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at what they do.
const PAUSE: Duration = Duration::from_millis(20);

/// What is used, or made.
#[derive(Debug)]
pub(crate) enum Sought {
    /// A snapshot of another process.
    Found(Snapshot),
    /// None: a place to make one.
    Ours(Staging),
}

impl Launcher {
    /// A snapshot that fits, is not `known` and at most `age` old. One that another process makes
    /// is waited for, and the progress says so; one that takes too long is `known` from then on.
    pub(crate) async fn seek(
        &self,
        known: &mut HashSet<SnapshotId>,
        age: Duration,
    ) -> Result<Sought, LaunchError> {
        let start = Instant::now();
        // What was waited for stays until it was looked for again.
        let mut _kept: Option<Kept> = None;
        loop {
            let (inner, not_these) = (Arc::clone(&self.0), known.clone());
            // What is made while it is waited for is younger than what was asked for.
            let age = age.saturating_add(start.elapsed());
            let search = move || inner.snapshots.search(&inner.requirements, &not_these, age);
            let theirs = match blocking(search).await? {
                Search::Found(snapshot) => return Ok(Sought::Found(snapshot)),
                Search::Ours(staging) => return Ok(Sought::Ours(staging)),
                Search::Theirs(theirs) => theirs,
            };
            (self.0.progress)(&Stage::WaitingForSnapshot(theirs.owners.clone()));
            let patience = PATIENCE.saturating_sub(start.elapsed());
            let (owners, id) = (theirs.owners.clone(), theirs.id);
            match timeout(patience, over(theirs)).await {
                Ok(kept) => _kept = Some(kept?),
                Err(_) => {
                    tracing::warn!("{owners} took too long to build a snapshot: one is built here");
                    // Not to be waited for again, for the next place.
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
async fn over(theirs: Theirs) -> Result<Kept, LaunchError> {
    let theirs = Arc::new(theirs);
    loop {
        let look = Arc::clone(&theirs);
        if let Some(kept) = blocking(move || look.over()).await? {
            return Ok(kept);
        }
        // That a file lock is free, the kernel tells only a thread that it blocks.
        sleep(PAUSE).await;
    }
}
