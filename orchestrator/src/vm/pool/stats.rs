//! What a pool did and holds.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::slots::Counts;
use crate::vm::launcher::LaunchError;
use crate::vm::vm_handle::Origin;

/// A pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PoolStats {
    /// Snapshots that the pool wants to have.
    pub size: usize,
    /// Snapshots that are ready.
    pub snapshots: usize,
    /// Snapshots that are being made, successors included.
    pub building: usize,
    /// Paused clones that wait for a spawn.
    pub warm: usize,
    /// Clones that are being restored for the warm tier.
    pub restoring: usize,
    /// VMs that were handed out and live.
    pub leased: usize,
    /// Spawns that wait for room.
    pub waiting: usize,
    /// Snapshots with a successor, kept for clones that live.
    pub retired: usize,
    /// Spawns served by a warm clone.
    pub served_warm: u64,
    /// Spawns served by restoring a snapshot.
    pub served_restored: u64,
    /// Spawns served by a boot.
    pub served_cold: u64,
    /// Builds, restores, warm clones and attempts to serve that failed.
    pub failures: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    warm: AtomicU64,
    restored: AtomicU64,
    cold: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    pub(super) fn served(&self, origin: Origin) {
        let counter = match origin {
            Origin::Warm => &self.warm,
            Origin::Restored => &self.restored,
            Origin::ColdBooted => &self.cold,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fell_back(&self, from: Origin, error: &LaunchError) {
        tracing::warn!(tier = %from, %error, "a tier could not serve");
        self.failed();
    }

    pub(super) fn snapshot(&self, size: usize, counts: Counts) -> PoolStats {
        PoolStats {
            size,
            snapshots: counts.ready,
            building: counts.building,
            warm: counts.warm,
            restoring: counts.restoring,
            leased: counts.leased,
            waiting: counts.waiting,
            retired: counts.retired,
            served_warm: self.warm.load(Ordering::Relaxed),
            served_restored: self.restored.load(Ordering::Relaxed),
            served_cold: self.cold.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}
