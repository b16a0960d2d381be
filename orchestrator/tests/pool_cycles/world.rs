//! All VMs that ever were, and the chance that they meet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::fault::Fault;
use crate::vm::Life;

#[derive(Debug, Default)]
pub(crate) struct World {
    faults: AtomicBool,
    deaf: AtomicBool,
    dead: AtomicBool,
    numbers: AtomicU32,
    /// VMs that were made and not dropped, and guests that run.
    vms: AtomicU64,
    guests: AtomicU64,
    served_twice: AtomicU64,
    struck: Mutex<BTreeMap<Fault, u64>>,
    lives: Mutex<Vec<Weak<Life>>>,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn faults(&self, on: bool) {
        self.faults.store(on, Ordering::Relaxed);
    }

    /// Whether guests hear nothing any more once they were held and released.
    pub(crate) fn deafen(&self, on: bool) {
        self.deaf.store(on, Ordering::SeqCst);
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Whether every VMM ends before it runs a guest.
    pub(crate) fn kill_vmms(&self, on: bool) {
        self.dead.store(on, Ordering::SeqCst);
    }

    pub(crate) fn vmms_die(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Whether a fault strikes now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let strikes =
            self.faults.load(Ordering::Relaxed) && fastrand::u32(..100_000) < fault.chance();
        if strikes {
            *self.struck.lock().unwrap().entry(fault).or_default() += 1;
        }
        strikes
    }

    /// How often each fault struck.
    pub(crate) fn struck(&self) -> Vec<(Fault, u64)> {
        let struck = self.struck.lock().unwrap();
        Fault::ALL
            .into_iter()
            .map(|fault| (fault, struck.get(&fault).copied().unwrap_or(0)))
            .collect()
    }

    /// A VM is made: its number, which no other has.
    pub(crate) fn born(&self) -> u32 {
        self.vms.fetch_add(1, Ordering::Relaxed);
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn lives(&self, life: &Arc<Life>) {
        let mut lives = self.lives.lock().unwrap();
        lives.retain(|life| life.strong_count() > 0);
        lives.push(Arc::downgrade(life));
    }

    pub(crate) fn dropped(&self) {
        self.vms.fetch_sub(1, Ordering::Relaxed);
    }

    /// A guest runs until what is returned is dropped.
    pub(crate) fn guest(self: &Arc<Self>) -> Presence {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Presence(Arc::clone(self))
    }

    /// VMs and guests that are left.
    pub(crate) fn living(&self) -> u64 {
        self.vms.load(Ordering::Relaxed) + self.guests.load(Ordering::Relaxed)
    }

    /// A guest got the name of a second spawn.
    pub(crate) fn serves_again(&self) {
        self.served_twice.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn served_twice(&self) -> u64 {
        self.served_twice.load(Ordering::Relaxed)
    }

    /// Ends one of the living VMs, whatever it does: being restored, warm, or leased.
    pub(crate) fn end_somebody(&self) {
        let lives = self.lives.lock().unwrap();
        if let Some(life) = fastrand::choice(lives.iter()).and_then(Weak::upgrade) {
            life.end("signal: 9 (SIGKILL)");
        }
    }
}

/// A guest that runs.
#[derive(Debug)]
pub(crate) struct Presence(Arc<World>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}
