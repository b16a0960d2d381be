//! Why a VM or a snapshot could not be made.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::template::TemplateError;
use crate::vm::guest::GuestError;
use crate::vm::identity::BadName;
use crate::vm::snapshot::SnapshotError;
use crate::vm::vmm::{Exit, VmmError, VmmKind};

/// Why a VM or a snapshot could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The hypervisor.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The agent in the guest.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The snapshots on disk.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The name asked for.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The agent did not come up.
    #[error("the guest's agent did not answer within {after:?} of its boot; {exit}")]
    NoBoot {
        /// How long it was given.
        after: Duration,
        /// How the VMM was ended, with the guest's last console lines.
        exit: Exit,
    },
    /// A clone that had answered did not do so any more after it had been held.
    #[error(
        "a clone that was held for a spawn did not answer within {after:?} of its release, as it \
         had done before"
    )]
    NotReleased {
        /// How long it was given.
        after: Duration,
    },
    /// The guest's kernel gave up.
    #[error("the guest's kernel panicked while it booted; {exit}")]
    KernelPanic {
        /// How the VMM was ended, with the guest's last console lines.
        exit: Exit,
    },
    /// The agent's binary, which goes into a template, is nowhere.
    #[error(
        "the guest agent's binary was not found (looked for {}): build it with `cargo xtask setup`, \
         or set IRONCLAW_GUEST_AGENT to it",
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoGuestAgent {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A backend was asked for, or is the only one, and can't run here.
    #[error(
        "IRONCLAW_BACKEND={} can't be used: {reason}; run `ironclaw doctor`, or set it to auto or \
         another one",
        kind.name()
    )]
    BackendUnusable {
        /// The backend.
        kind: VmmKind,
        /// Why not.
        reason: String,
    },
    /// A backend was asked for that this program does not have.
    #[error("there is no backend {}", kind.name())]
    UnknownBackend {
        /// What was asked for.
        kind: VmmKind,
    },
    /// A setting asks for what one backend alone has.
    #[error(
        "{variable} is set, which needs {needed}, and that is not what would run; see `ironclaw \
         doctor`"
    )]
    NeedsBackend {
        /// The setting.
        variable: &'static str,
        /// What has it.
        needed: VmmKind,
    },
    /// The host has no random numbers.
    #[error("the host's random generator failed: {0}")]
    Random(#[from] getrandom::Error),
    /// A panic, of the callback for progress if it was not this library's.
    #[error("a panic ended the work: {reason}")]
    Panicked {
        /// What it said.
        reason: String,
    },
    /// The async runtime is shutting down.
    #[error("the program is ending")]
    ShuttingDown,
}

impl LaunchError {
    /// How the VMM ended, with what it printed, if it is that which is told.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::NoBoot { exit, .. }
            | Self::KernelPanic { exit }
            | Self::Vmm(VmmError::Died { exit, .. }) => Some(exit),
            _ => None,
        }
    }

    /// In one word, for counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Template(_) => "template",
            Self::Vmm(error) => match error {
                VmmError::NotInstalled { .. } | VmmError::Unusable { .. } => "vmm_unusable",
                VmmError::Io { .. } => "io",
                VmmError::NoSpace { .. } => "no_space",
                VmmError::Died { .. } => "vmm_died",
                VmmError::TimedOut { .. } => "vmm_timed_out",
                VmmError::Refused { .. } => "vmm_refused",
                VmmError::Protocol { .. } | VmmError::NoChannel => "vmm_protocol",
            },
            Self::Guest(_) | Self::NoBoot { .. } | Self::KernelPanic { .. } => "guest",
            Self::NotReleased { .. } => "not_released",
            Self::Snapshot(_) => "snapshot",
            Self::Name(_) => "name",
            Self::NoGuestAgent { .. }
            | Self::BackendUnusable { .. }
            | Self::UnknownBackend { .. }
            | Self::NeedsBackend { .. } => "settings",
            Self::Random(_) => "random",
            Self::Panicked { .. } => "panicked",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Whether it is the end of a wait: the same again would most likely take as long.
    pub(crate) fn took_its_time(&self) -> bool {
        matches!(
            self,
            Self::Vmm(VmmError::TimedOut { .. })
                | Self::Guest(GuestError::NoAnswer { .. })
                | Self::NotReleased { .. }
                | Self::NoBoot { .. }
        )
    }

    /// What a restore that failed so failed by.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Snapshot(_) => Fault::Snapshot,
            Self::Vmm(
                VmmError::NotInstalled { .. }
                | VmmError::Unusable { .. }
                | VmmError::Io { .. }
                | VmmError::NoSpace { .. },
            ) => Fault::Other,
            Self::Vmm(_) | Self::Guest(_) => Fault::SnapshotOrVmm,
            _ => Fault::Other,
        }
    }
}

/// What a restore failed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its snapshot, which can't serve later either.
    Snapshot,
    /// Its snapshot or the VMM, which other VMs show to work or not.
    SnapshotOrVmm,
    /// What this process or its host lacks, and what would fail with each snapshot.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmm_that_cant_be_used_is_no_fault_of_a_snapshot() {
        let path = std::path::Path::new("/qemu.sh");
        let unusable = LaunchError::Vmm(VmmError::not_itself("qemu", path, 5));
        assert_eq!(unusable.fault(), Fault::Other);
        let refused = LaunchError::Vmm(VmmError::Refused {
            operation: "load the snapshot".to_owned(),
            message: "no state".to_owned(),
        });
        assert_eq!(refused.fault(), Fault::SnapshotOrVmm);
    }
}
