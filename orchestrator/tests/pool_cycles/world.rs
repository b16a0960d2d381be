//! All VMs ever created, and the chances of their faults.

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
    /// VMs created and not dropped, plus running guests.
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

    /// Sets whether guests stop receiving once they were held and released.
    pub(crate) fn deafen(&self, on: bool) {
        self.deaf.store(on, Ordering::SeqCst);
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Sets whether every VMM ends before it runs a guest.
    pub(crate) fn kill_vmms(&self, on: bool) {
        self.dead.store(on, Ordering::SeqCst);
    }

    pub(crate) fn vmms_die(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Returns whether a fault strikes now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let strikes =
            self.faults.load(Ordering::Relaxed) && fastrand::u32(..100_000) < fault.chance();
        if strikes {
            *self.struck.lock().unwrap().entry(fault).or_default() += 1;
        }
        strikes
    }

    /// Returns how often each fault struck.
    pub(crate) fn struck(&self) -> Vec<(Fault, u64)> {
        let struck = self.struck.lock().unwrap();
        Fault::ALL
            .into_iter()
            .map(|fault| (fault, struck.get(&fault).copied().unwrap_or(0)))
            .collect()
    }

    /// Registers a new VM; returns its unique number.
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

    /// Registers a running guest, until the returned value is dropped.
    pub(crate) fn guest(self: &Arc<Self>) -> Presence {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Presence(Arc::clone(self))
    }

    /// Returns the number of VMs and guests left.
    pub(crate) fn living(&self) -> u64 {
        self.vms.load(Ordering::Relaxed) + self.guests.load(Ordering::Relaxed)
    }

    /// Counts the VMs that were ever made.
    pub(crate) fn made(&self) -> u32 {
        self.numbers.load(Ordering::Relaxed)
    }

    /// Counts the VMs that are left, those that stand by included.
    pub(crate) fn vms(&self) -> u64 {
        self.vms.load(Ordering::Relaxed)
    }

    /// Records that a guest was handed out a second time.
    pub(crate) fn serves_again(&self) {
        self.served_twice.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn served_twice(&self) -> u64 {
        self.served_twice.load(Ordering::Relaxed)
    }

    /// Ends one of the living VMs, whatever its state: being restored, warm, or leased.
    pub(crate) fn end_somebody(&self) {
        let lives = self.lives.lock().unwrap();
        if let Some(life) = fastrand::choice(lives.iter()).and_then(Weak::upgrade) {
            life.end("signal: 9 (SIGKILL)");
        }
    }
}

/// A running guest.
#[derive(Debug)]
pub(crate) struct Presence(Arc<World>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}
