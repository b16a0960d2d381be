//! The faults, and their frequency.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A boot is refused.
    BootRefused,
    /// A standby process does not start.
    StandByRefused,
    /// The VMM dies while it restores.
    RestoreDied,
    /// A restore is slow.
    RestoreSlow,
    /// The VMM answers a restore too late.
    RestoreTimedOut,
    /// A hold is refused.
    PauseRefused,
    /// The VMM dies at a release.
    ResumeDied,
    /// The VMM answers a release too late.
    ResumeTimedOut,
    /// The guest dies when it gets its identity.
    HelloDied,
    /// The guest is slow to take its identity.
    HelloSlow,
    /// The guest violates the protocol in answer to a command.
    Nonsense,
    /// The guest dies during a command.
    ExecDied,
    /// The guest never answers a command.
    ExecHangs,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::BootRefused,
        Self::StandByRefused,
        Self::RestoreDied,
        Self::RestoreSlow,
        Self::RestoreTimedOut,
        Self::PauseRefused,
        Self::ResumeDied,
        Self::ResumeTimedOut,
        Self::HelloDied,
        Self::HelloSlow,
        Self::Nonsense,
        Self::ExecDied,
        Self::ExecHangs,
    ];

    /// Returns how many times of a hundred thousand it strikes.
    pub(crate) fn chance(self) -> u32 {
        match self {
            Self::BootRefused => 10_000,
            // For each of these a snapshot is given up and another one built.
            Self::RestoreDied | Self::RestoreTimedOut | Self::HelloDied => 100,
            Self::RestoreSlow | Self::HelloSlow => 1_000,
            Self::PauseRefused | Self::StandByRefused => 1_000,
            Self::ResumeDied | Self::ResumeTimedOut => 1_000,
            Self::Nonsense | Self::ExecDied => 500,
            Self::ExecHangs => 200,
        }
    }
}
