//! A slot of the pool: its snapshot and the warm clones of it.

use std::collections::VecDeque;

use crate::vm::pool::backoff::Backoff;
use crate::vm::pool::budget::Share;
use crate::vm::pool::clock::Now;

/// Index of a slot, below the pool's size.
pub(crate) type SlotId = usize;

/// The number of a snapshot in this pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(pub(super) u64);

/// A warm clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CloneId(pub(super) u64);

/// A snapshot and its state.
#[derive(Debug)]
pub(super) struct PooledSnapshot<S> {
    pub(super) snapshot: S,
    /// Number of living clones: being restored, warm or leased.
    pub(super) clones: usize,
    pub(super) retired: bool,
    /// Whether a restore failed, through its fault or the VMM's.
    pub(super) suspected: bool,
}

impl<S> PooledSnapshot<S> {
    /// Returns whether to delete it. A suspected one may turn out sound, or belong to others.
    pub(super) fn is_over(&self) -> bool {
        self.retired && self.clones == 0 && !self.suspected
    }
}

#[derive(Debug)]
pub(super) struct Warm<C> {
    pub(super) clone: C,
    pub(super) id: CloneId,
    pub(super) of: Generation,
    pub(super) since: Now,
    pub(super) share: Share,
}

#[derive(Debug)]
pub(super) struct Slot<C> {
    pub(super) ready: Option<(Generation, Now)>,
    pub(super) building: bool,
    pub(super) build_backoff: Backoff,
    /// Warm clones, the oldest first.
    pub(super) warm: VecDeque<Warm<C>>,
    pub(super) restoring: Vec<(Generation, Share)>,
    pub(super) restore_backoff: Backoff,
}

impl<C> Slot<C> {
    pub(super) fn empty() -> Self {
        Self {
            ready: None,
            building: false,
            build_backoff: Backoff::default(),
            warm: VecDeque::new(),
            restoring: Vec::new(),
            restore_backoff: Backoff::default(),
        }
    }

    /// Number of clones of the current snapshot that exist or are being restored.
    pub(super) fn fresh(&self) -> usize {
        let Some((present, _)) = self.ready else {
            return 0;
        };
        let restoring = self.restoring.iter().filter(|(of, _)| *of == present);
        self.warm.len() - self.stale_ones() + restoring.count()
    }

    /// Number of warm clones of former snapshots. They are the first: a clone becomes warm only while
    /// its snapshot is the current one.
    pub(super) fn stale_ones(&self) -> usize {
        let Some((present, _)) = self.ready else {
            return 0;
        };
        self.warm.partition_point(|warm| warm.of != present)
    }

    /// Takes out a clone of a snapshot that has a successor.
    pub(super) fn stale(&mut self) -> Option<Warm<C>> {
        let (present, _) = self.ready?;
        let is_stale = self.warm.front().is_some_and(|warm| warm.of != present);
        is_stale.then(|| self.warm.pop_front()).flatten()
    }
}
