//! How strong a jail of a QEMU process can be.

use std::fmt;

/// The strength of a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strength {
    /// Namespaces, a root directory and a user id of its own.
    OwnUser,
    /// Namespaces and a root directory of its own, as this user.
    UserNamespace,
    /// As this user, with access to a few files only.
    Landlock,
    /// As this user, with filtered system calls only.
    Filters,
    /// No jail (`jail=off`): only the filters of QEMU's own sandbox.
    Off,
}

impl Strength {
    /// From the strongest to the weakest.
    pub(super) const TRIED: [Self; 4] = [
        Self::OwnUser,
        Self::UserNamespace,
        Self::Landlock,
        Self::Filters,
    ];

    /// Returns whether a process has namespaces and a root directory of its own.
    pub(super) fn has_namespaces(self) -> bool {
        matches!(self, Self::OwnUser | Self::UserNamespace)
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnUser => "no user id of its own",
            Self::UserNamespace => "no user namespace",
            Self::Landlock => "no Landlock",
            Self::Filters => "no filters",
            Self::Off => "no jail",
        })
    }
}
