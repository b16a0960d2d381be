//! What all connections of a guest share, and what snapshots copy.

use core::time::Duration;

use alloc::boxed::Box;

use ironclaw_protocol::message::{Identity, Restored, UnixTime};

use crate::files::Files;
use crate::generator::Generator;

/// What the guest needs of the machine under it.
pub trait Machine {
    /// Time since some fixed moment, never going back.
    fn uptime(&self) -> Duration;

    /// Size of the memory that `dirty` may write, in whole MiB.
    fn spare_mebibytes(&self) -> u32;

    /// Writes to every page of one MiB of the spare memory; `index` is below
    /// [`spare_mebibytes`](Self::spare_mebibytes).
    fn dirty_mebibyte(&mut self, index: u32);
}

/// The guest's state.
pub struct Guest {
    /// The hardware.
    pub machine: Box<dyn Machine>,
    /// How often `counter` has run.
    pub counter: u64,
    /// Source of `entropy`.
    pub generator: Generator,
    /// Files written by the host.
    pub files: Files,
    /// When the host asked for the power to be turned off, by [`Machine::uptime`].
    pub power_off_at: Option<Duration>,
    identity: Option<Identity>,
    clock: Option<(UnixTime, Duration)>,
}

impl core::fmt::Debug for Guest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Guest")
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// A guest that was just booted, with a generator seeded by `seed`.
    #[must_use]
    pub fn new(machine: Box<dyn Machine>, seed: &[u8]) -> Self {
        Self {
            machine,
            counter: 0,
            generator: Generator::new(seed),
            files: Files::default(),
            power_off_at: None,
            identity: None,
            clock: None,
        }
    }

    /// Becomes the clone that the host describes.
    pub fn restored(&mut self, restored: Restored) {
        self.generator.mix(&restored.entropy);
        self.clock = Some((restored.unix_time, self.machine.uptime()));
        self.identity = Some(restored.identity);
    }

    /// Who the host said this guest is, if it did.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Time since 1970-01-01 00:00:00 UTC: what the host said, plus what has passed since.
    #[must_use]
    pub fn unix_time(&self) -> Option<Duration> {
        let (told, at) = self.clock?;
        let passed = self.machine.uptime().saturating_sub(at);
        Duration::new(told.seconds, told.nanos).checked_add(passed)
    }
}
