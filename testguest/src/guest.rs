//! The state of a guest, shared by its connections and copied by snapshots.

use core::time::Duration;

use alloc::boxed::Box;

use ironclaw_protocol::message::{Identity, SetIdentity, UnixTime};

use ironclaw_protocol::process_table::SessionKey;

use crate::commands::Commands;
use crate::files::Files;
use crate::generator::Generator;
pub use crate::machine::Machine;

/// The guest's state.
pub struct Guest {
    /// The hardware.
    pub machine: Box<dyn Machine>,
    /// The number of runs of `counter`.
    pub counter: u64,
    /// The source of `entropy`.
    pub generator: Generator,
    /// Files written by the host.
    pub files: Files,
    /// The time when the host asked to power off, by [`Machine::uptime`].
    pub power_off_at: Option<Duration>,
    /// The commands, whoever listens to them.
    pub commands: Commands,
    /// Number of sessions opened.
    sessions: u64,
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
    /// Creates a guest that was just booted, with a generator seeded by `seed`.
    #[must_use]
    pub fn new(machine: Box<dyn Machine>, seed: &[u8]) -> Self {
        Self {
            machine,
            counter: 0,
            generator: Generator::new(seed),
            files: Files::default(),
            power_off_at: None,
            commands: Commands::default(),
            sessions: 0,
            identity: None,
            clock: None,
        }
    }

    /// Applies the identity from the host.
    pub fn set_identity(&mut self, new: SetIdentity) {
        self.generator.mix(&new.entropy);
        self.clock = Some((new.unix_time, self.machine.uptime()));
        self.identity = Some(new.identity);
        self.commands.keep_all();
    }

    /// Takes over the commands of a guest whose clock was at `then`, for whoever attaches to them.
    pub fn adopt(&mut self, mut commands: Commands, then: Duration) {
        commands.moved(then, self.machine.uptime());
        commands.lose_sessions();
        self.commands = commands;
    }

    /// Drops all connections; commands continue without them.
    pub fn lose_sessions(&mut self) {
        self.commands.lose_sessions();
    }

    /// Returns the key of a session that was just opened.
    pub(crate) fn new_session(&mut self) -> SessionKey {
        let key = SessionKey(self.sessions);
        self.sessions += 1;
        key
    }

    /// Returns when [`work`](Self::work) is due without an event, by [`Machine::uptime`].
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        self.commands.wakes_at()
    }

    /// Gives each command one turn. Returns whether anything was done, and there may be more to do.
    pub fn work(&mut self) -> bool {
        self.commands.work(self.machine.as_mut())
    }

    /// Returns the guest's identity, if it got one.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Returns the time since 1970-01-01 00:00:00 UTC: the host's, plus the time since it was set.
    #[must_use]
    pub fn unix_time(&self) -> Option<Duration> {
        let (told, at) = self.clock?;
        let passed = self.machine.uptime().saturating_sub(at);
        Duration::new(told.seconds, told.nanos).checked_add(passed)
    }
}
