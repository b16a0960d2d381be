//! Errors of making a VM or a snapshot.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::template::TemplateError;
use crate::untrusted::Marked;
use crate::vm::guest::GuestError;
use crate::vm::identity::{BadName, NoRandomness};
use crate::vm::snapshot::SnapshotError;
use crate::vm::vmm::{Exit, VmmError, VmmKind};

/// The reason why a VM or a snapshot could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The hypervisor failed.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The agent in the guest failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The snapshots on disk failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The name is invalid.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The agent did not answer in time after a boot.
    #[error("the guest's agent did not answer within {after:?} of its boot; {exit}")]
    NoBoot {
        /// The timeout.
        after: Duration,
        /// The end of the VMM, with the last lines of the guest's console.
        exit: Exit,
    },
    /// A clone that had answered before it was held did not answer after its release.
    #[error(
        "a clone that was held for a spawn did not answer within {after:?} of its release, as it \
         had done before"
    )]
    NotReleased {
        /// How long it was given.
        after: Duration,
    },
    /// A program that should make guests of the template warm failed.
    #[error("the warm-up `{command}` failed: {reason}{}", Marked("guest", printed))]
    WarmUp {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        reason: String,
        /// The end of what it printed, without control characters.
        printed: String,
    },
    /// The guest's kernel panicked.
    #[error("the guest's kernel panicked while it booted; {exit}")]
    KernelPanic {
        /// The end of the VMM, with the last lines of the guest's console.
        exit: Exit,
    },
    /// The agent's binary, which is part of a template, was not found.
    #[error(
        "the guest agent's binary was not found (looked for {}): build it with `cargo xtask setup`, \
         or set `guest_agent` to it",
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoGuestAgent {
        /// The paths that were tried.
        looked: Vec<PathBuf>,
    },
    /// A backend was chosen, or is the only one, and can't run here.
    #[error(
        "`backend={}` can't be used: {reason}; run `ironclaw doctor`, or set it to auto or \
         another one",
        kind.name()
    )]
    BackendUnusable {
        /// The backend.
        kind: VmmKind,
        /// The reason.
        reason: String,
    },
    /// The chosen backend does not exist in this program.
    #[error("there is no backend {}", kind.name())]
    UnknownBackend {
        /// The chosen kind.
        kind: VmmKind,
    },
    /// A setting requires a backend other than the one that would run.
    #[error(
        "`{variable}` is set, which needs {needed}, and that is not what would run; see `ironclaw \
         doctor`"
    )]
    NeedsBackend {
        /// The setting.
        variable: &'static str,
        /// The required backend.
        needed: VmmKind,
    },
    /// The host's random generator failed.
    #[error("the host's random generator failed")]
    Random(#[source] io::Error),
    /// A panic, of the progress callback if not of this library.
    #[error("a panic ended the work: {reason}")]
    Panicked {
        /// The panic's message.
        reason: String,
    },
    /// The async runtime is shutting down.
    #[error("the program is ending")]
    ShuttingDown,
}

impl From<NoRandomness> for LaunchError {
    fn from(NoRandomness(source): NoRandomness) -> Self {
        Self::Random(source)
    }
}

impl LaunchError {
    /// Returns the end of the VMM with its output, if that is the error.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::NoBoot { exit, .. }
            | Self::KernelPanic { exit }
            | Self::Vmm(VmmError::Died { exit, .. }) => Some(exit),
            _ => None,
        }
    }

    /// Returns the reason in one word, for counters.
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
            Self::WarmUp { .. } => "warm_up",
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

    /// Returns whether it is a timeout: a retry would most likely take as long.
    pub(crate) fn took_its_time(&self) -> bool {
        matches!(
            self,
            Self::Vmm(VmmError::TimedOut { .. })
                | Self::Guest(GuestError::NoAnswer { .. })
                | Self::NotReleased { .. }
                | Self::NoBoot { .. }
        )
    }

    /// Returns the cause of a restore that failed with this error.
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

/// The cause of a failed restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The snapshot, which can't serve later either.
    Snapshot,
    /// The snapshot or the VMM; other VMs show whether the VMM works.
    SnapshotOrVmm,
    /// A lack of resources in this process or its host, which would fail any snapshot.
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
