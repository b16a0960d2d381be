//! Decides who is at fault for a failed restore, the snapshot or the VMM.

use std::collections::VecDeque;

use super::PoolState;
use super::slot::{Generation, Slot, Warm};
use crate::vm::pool::clock::Now;

impl<S: Clone, C, W> PoolState<S, C, W> {
    /// Suspects a snapshot whose restore failed, through its fault or the VMM's: it serves nobody,
    /// and its successor is built like that of a given up one, until the cause is known.
    pub(crate) fn suspect(&mut self, generation: Generation, now: Now) {
        let entry = self.snapshots.get_mut(&generation);
        // One with a successor is about to be deleted in any case.
        let Some(entry) = entry.filter(|entry| !entry.suspected && !entry.retired) else {
            return;
        };
        entry.suspected = true;
        let is_its = |slot: &&mut Slot<C>| slot.ready.is_some_and(|(it, _)| it == generation);
        if let Some(slot) = self.slots.iter_mut().find(is_its) {
            slot.build_backoff.record_failure(now, &mut self.jitter);
        }
    }

    pub(super) fn is_suspected(&self, of: Generation) -> bool {
        self.snapshots.get(&of).is_some_and(|entry| entry.suspected)
    }

    /// Gives up a faulty snapshot, if it is still here. Rebuilds it at once the first time, and
    /// after growing backoffs if successors fail alike. Returns its warm clones, to be ended.
    pub(crate) fn discard(&mut self, generation: Generation, now: Now) -> Vec<C> {
        self.suspect(generation, now);
        if let Some(entry) = self.snapshots.get_mut(&generation) {
            entry.suspected = false;
        }
        self.retire(generation)
    }

    fn retire(&mut self, generation: Generation) -> Vec<C> {
        let Some(entry) = self.snapshots.get_mut(&generation) else {
            return Vec::new();
        };
        entry.retired = true;
        let mut ended = Vec::new();
        for slot in &mut self.slots {
            slot.ready.take_if(|(present, _)| *present == generation);
            let (faulty, sound) = std::mem::take(&mut slot.warm)
                .into_iter()
                .partition(|warm| warm.of == generation);
            slot.warm = sound;
            ended.extend::<VecDeque<Warm<C>>>(faulty);
        }
        for _ in &ended {
            self.clone_ended(generation);
        }
        ended.into_iter().map(|warm| warm.clone).collect()
    }

    /// Records that a VM started, so the VMM works: gives up the suspected snapshots. Returns their
    /// warm clones, to be ended.
    pub(crate) fn vmm_works(&mut self) -> Vec<C> {
        let mut given_up = Vec::new();
        for (generation, entry) in &mut self.snapshots {
            if std::mem::take(&mut entry.suspected) {
                given_up.push(*generation);
            }
        }
        let ended = given_up.into_iter().map(|it| self.retire(it));
        ended.flatten().collect()
    }

    /// Records that a boot failed, so failed restores prove nothing: the suspected snapshots serve
    /// again.
    pub(crate) fn vmm_fails(&mut self) {
        // One that another process's snapshot has replaced is left for others to find.
        self.snapshots
            .retain(|_, entry| !(std::mem::take(&mut entry.suspected) && entry.retired));
    }

    /// Returns whether the successor of a snapshot given up now is built at once.
    pub(crate) fn heals(&self, generation: Generation) -> bool {
        let is_its = |slot: &&Slot<C>| slot.ready.is_some_and(|(present, _)| present == generation);
        let slot = self.slots.iter().find(is_its);
        slot.is_none_or(|slot| !slot.build_backoff.has_failed())
    }
}
