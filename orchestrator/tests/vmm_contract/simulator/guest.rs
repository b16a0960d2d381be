//! The guest of a simulated machine: the test guest's own library.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironclaw_testguest::commands::Commands;
use ironclaw_testguest::guest::{Guest, Machine};
use ironclaw_testguest::session::Session;
use serde::{Deserialize, Serialize};

/// The state of a guest in a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    counter: u64,
    seed: [u8; 32],
    dirty: BTreeSet<u32>,
    commands: Commands,
    /// The time of the guest's clock.
    uptime: Duration,
}

#[derive(Debug)]
struct SimulatedMachine {
    booted: Instant,
    dirty: Arc<Mutex<BTreeSet<u32>>>,
}

impl Machine for SimulatedMachine {
    fn uptime(&self) -> Duration {
        self.booted.elapsed()
    }

    fn spare_mebibytes(&self) -> u32 {
        64
    }

    fn dirty_mebibyte(&mut self, index: u32) {
        self.dirty.lock().unwrap().insert(index);
    }
}

/// A guest and its sessions with the host.
pub(super) struct Running {
    guest: Guest,
    dirty: Arc<Mutex<BTreeSet<u32>>>,
}

impl Running {
    pub(super) fn new(memory: Memory) -> Self {
        let dirty = Arc::new(Mutex::new(memory.dirty));
        let machine = SimulatedMachine {
            booted: Instant::now(),
            dirty: Arc::clone(&dirty),
        };
        let mut guest = Guest::new(Box::new(machine), &memory.seed);
        guest.counter = memory.counter;
        guest.adopt(memory.commands, memory.uptime);
        Self { guest, dirty }
    }

    pub(super) fn booted() -> Self {
        Self::new(Memory {
            counter: 0,
            seed: *b"every boot of it draws the same.",
            dirty: BTreeSet::new(),
            commands: Commands::default(),
            uptime: Duration::ZERO,
        })
    }

    /// Returns the state for a snapshot taken now.
    pub(super) fn memory(&mut self) -> Memory {
        Memory {
            counter: self.guest.counter,
            // All clones continue with the next number that this guest would have drawn.
            seed: self.guest.generator.draw(),
            dirty: self.dirty.lock().unwrap().clone(),
            commands: self.guest.commands.clone(),
            uptime: self.guest.machine.uptime(),
        }
    }

    /// Lets commands work for which no host is there.
    pub(super) fn work(&mut self) {
        self.guest.work();
    }

    /// Closes the connection of a session.
    pub(super) fn close(&mut self, session: &mut Session) {
        session.close(&mut self.guest);
    }

    /// Closes all connections.
    pub(super) fn lose_sessions(&mut self) {
        self.guest.lose_sessions();
    }

    /// Runs a session until it waits.
    pub(super) fn pump(&mut self, session: &mut Session) {
        while session.pump(&mut self.guest) {}
    }

    pub(super) fn is_off(&self) -> bool {
        self.guest.power_off_at.is_some()
    }
}
