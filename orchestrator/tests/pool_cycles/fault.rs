//! What goes wrong, and how often.

/// A way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A boot is refused.
    BootRefused,
    /// A process that is to stand by does not start.
    StandByRefused,
    /// The VMM dies while it restores.
    RestoreDied,
    /// A restore takes its time.
    RestoreSlow,
    /// The VMM answers a restore too late.
    RestoreTimedOut,
    /// A pause is refused.
    PauseRefused,
    /// The VMM dies at a resume.
    ResumeDied,
    /// The VMM answers a resume too late.
    ResumeTimedOut,
    /// The guest dies when it gets its identity.
    HelloDied,
    /// The guest takes its time to get its identity.
    HelloSlow,
    /// The guest breaks the protocol in answer to a command.
    Nonsense,
    /// The guest dies in mid-command.
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

    /// How many times it strikes of a hundred thousand.
    pub(crate) fn chance(self) -> u32 {
        match self {
            Self::BootRefused => 10_000,
            // A snapshot is given up for each of these, and another one built.
            Self::RestoreDied | Self::RestoreTimedOut | Self::HelloDied => 100,
            Self::RestoreSlow | Self::HelloSlow => 1_000,
            Self::PauseRefused | Self::StandByRefused => 1_000,
            Self::ResumeDied | Self::ResumeTimedOut => 1_000,
            Self::Nonsense | Self::ExecDied => 500,
            Self::ExecHangs => 200,
        }
    }
}
