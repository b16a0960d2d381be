//! Orders to the driver of the pool, and results of events.

use super::slot::{CloneId, Generation, SlotId};
use crate::vm::pool::budget::Share;

/// A VM that was handed out, or is about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId(pub(super) u64);

/// A spawn that waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WaiterId(pub(super) u64);

/// A task for the pool's driver, which reports its result.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Action<S, C, W = WaiterId> {
    /// Give this to the waiting spawn by its channel; it stops waiting.
    Grant(W, Grant<S, C>),
    /// Build a snapshot, then report [`PoolState::built`].
    Build(SlotId),
    /// Restore and prime a clone of this snapshot, then report [`PoolState::restored`].
    Restore(SlotId, Generation, S),
    /// End this clone, which is surplus.
    End(C),
    /// Delete this snapshot, which has no clones and serves no more.
    Delete(S),
}

/// The result of a spawn's admission.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Grant<S, C> {
    pub(crate) lease: LeaseId,
    /// Its reserved room, for the VM's lifetime.
    pub(crate) share: Share,
    pub(crate) placement: Placement<S, C>,
}

/// The way in which a spawn is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placement<S, C> {
    /// By a held clone, which belongs to the caller now.
    Warm(C),
    /// By restoring a snapshot.
    Restore(Generation, S),
    /// By a boot.
    Boot,
}

/// The result of a restore.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Restored<C> {
    /// The clone waits for a spawn; the id is for [`PoolState::died`].
    Warm(CloneId),
    /// The clone is surplus and to be ended.
    Unwanted(C),
    /// The restore failed.
    Failed,
}

/// Numbers of snapshots and clones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) ready: usize,
    pub(crate) building: usize,
    pub(crate) warm: usize,
    pub(crate) restoring: usize,
    pub(crate) leased: usize,
    pub(crate) waiting: usize,
    /// Snapshots that wait for the end of their last clone.
    pub(crate) retired: usize,
}
