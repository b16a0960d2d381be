//! The exit codes, and which error has which.

use std::error::Error as StdError;

use anyhow::Error;
use ironclaw_client::{ClientError, CommandFailed, Refusal};
use ironclaw_console::logging::BadFilter;
use ironclaw_console::signals::{self, Interrupted, NotEnded};
use ironclaw_console::{OutputClosed, causes};
use ironclaw_orchestrator::template::TemplateError;
use ironclaw_orchestrator::template::oci::IncludeError;
use ironclaw_orchestrator::vm::FailureKind;
use ironclaw_orchestrator::vm::config::ConfigError;
use ironclaw_orchestrator::vm::snapshot::SnapshotError;
use ironclaw_orchestrator::vm::vmm::{self, VmmError};
use ironclaw_orchestrator::vm::{ErrorKind, GuestError, LaunchError, PoolError, SpawnError};
use thiserror::Error as ThisError;

use crate::misuse::Misuse;

/// Exit codes of our own; any other is the guest command's.
///
/// From 124 on they are those of `timeout`, `env` and the shells. 141 is what a shell shows for a
/// program in a pipe whose reader has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Found = 1,
    Usage = 2,
    Store = 119,
    Protocol = 120,
    Setting = 121,
    VmDied = 122,
    NoSuchDirectory = 123,
    TimedOut = 124,
    Failed = 125,
    CannotRun = 126,
    NotFound = 127,
    OutputClosed = 141,
}

impl Code {
    pub(crate) const ALL: &[Self] = &[
        Self::Found,
        Self::Usage,
        Self::Store,
        Self::Protocol,
        Self::Setting,
        Self::VmDied,
        Self::NoSuchDirectory,
        Self::TimedOut,
        Self::Failed,
        Self::CannotRun,
        Self::NotFound,
        Self::OutputClosed,
    ];

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Found => {
                "`doctor`, `snapshot verify`, `template verify`, `bench --compare` or `soak` found something wrong"
            }
            Self::Usage => "the command line is wrong",
            Self::Store => {
                "the directory of snapshots or templates can't be used, or a disk of state is full"
            }
            Self::Protocol => "the guest broke the protocol",
            Self::Setting => {
                "a setting is wrong, or names something that is not there or can't be used"
            }
            Self::VmDied => "the VM or its hypervisor died, or could not be started",
            Self::NoSuchDirectory => "there is no such directory in the guest",
            Self::TimedOut => "the command was killed because its time was over",
            Self::Failed => "anything else that ironclaw could not do",
            Self::CannotRun => "the command was found in the guest, but can't be run",
            Self::NotFound => "there is no such command in the guest",
            Self::OutputClosed => "nobody reads the output any more",
        }
    }
}

/// The VM ended under a running command.
#[derive(Debug, ThisError)]
#[error("the VM ended while the command ran ({0})")]
pub(crate) struct VmEnded(pub(crate) vmm::Exit);

/// The exit code for `error`.
pub(crate) fn code(error: &Error) -> u8 {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        return interrupted.exit_code();
    }
    if let Some(NotEnded(signal)) = error.downcast_ref() {
        return signals::exit_code(*signal);
    }
    kind(error) as u8
}

/// The name of the kind of a library's error, for programs.
pub(crate) fn name(error: &Error) -> Option<&'static str> {
    ErrorKind::of(error.as_ref()).map(ErrorKind::name)
}

/// What to say about `error`, with all its causes; nothing about what the user did himself.
pub(crate) fn text(error: &Error) -> Option<String> {
    let quiet = error.is::<OutputClosed>() || error.is::<Interrupted>();
    (!quiet).then(|| causes(error.as_ref()))
}

fn kind(error: &Error) -> Code {
    if error.is::<OutputClosed>() {
        return Code::OutputClosed;
    }
    let is_misuse = error.is::<Misuse>() || error.is::<ironclaw_inventory::Misuse>();
    if is_misuse || error.is::<IncludeError>() {
        return Code::Usage;
    }
    // Said of the command itself; below another error, it was said while a VM was made.
    if let Some(guest) = error.downcast_ref::<GuestError>() {
        return of_guest(guest);
    }
    error.chain().find_map(of_cause).unwrap_or(Code::Failed)
}

fn of_cause(cause: &(dyn StdError + 'static)) -> Option<Code> {
    // The library's errors are transparent: what is in them is not in the chain of causes.
    if let Some(spawn) = cause.downcast_ref() {
        Some(of_spawn(spawn))
    } else if let Some(pool) = cause.downcast_ref() {
        Some(of_pool(pool))
    } else if let Some(launch) = cause.downcast_ref() {
        Some(of_launch(launch))
    } else if let Some(snapshot) = cause.downcast_ref() {
        Some(of_snapshot(snapshot))
    } else if let Some(template) = cause.downcast_ref() {
        Some(of_template(template))
    } else if let Some(error) = cause.downcast_ref::<ClientError>() {
        match error {
            ClientError::Refused(refusal) => Some(of_refusal(refusal)),
            ClientError::BadAuthority { .. } => Some(Code::Setting),
            _ => None,
        }
    } else if let Some(CommandFailed(refusal)) = cause.downcast_ref() {
        Some(of_command(refusal))
    } else if let Some(refusal) = cause.downcast_ref() {
        Some(of_refusal(refusal))
    } else if cause.is::<ConfigError>() || cause.is::<BadFilter>() {
        Some(Code::Setting)
    } else {
        (cause.is::<VmEnded>() || cause.is::<VmmError>()).then_some(Code::VmDied)
    }
}

/// As the library's errors have it, of which the daemon tells the kind.
fn of_refusal(refusal: &Refusal) -> Code {
    match refusal.kind.as_str() {
        "no_file" => Code::NotFound,
        "no_directory" => Code::NoSuchDirectory,
        "forbidden" => Code::CannotRun,
        "guest_lost" => Code::VmDied,
        _ => Code::Failed,
    }
}

/// Of the command itself, which a guest could not start.
fn of_command(refusal: &Refusal) -> Code {
    match refusal.kind.as_str() {
        "invalid" | "unsupported" | "too_large" => Code::CannotRun,
        "guest_silent" => Code::TimedOut,
        _ => of_refusal(refusal),
    }
}

/// Returns the failure of a run that a daemon refused as it would be here.
pub(crate) fn of_run(error: ClientError) -> Error {
    match error {
        ClientError::Refused(refusal) if refusal.kind == "no_command" => {
            Misuse::NothingToRun.into()
        }
        error => error.into(),
    }
}

fn of_spawn(error: &SpawnError) -> Code {
    match error {
        SpawnError::Pool(pool) => of_pool(pool),
        // The last tier is the one that should have worked whatever befell the others.
        SpawnError::Failed(tiers) => tiers
            .iter()
            .last()
            .map_or(Code::Failed, |(_, error)| of_launch(error)),
        _ => Code::Failed,
    }
}

fn of_pool(error: &PoolError) -> Code {
    match error {
        PoolError::Config(_)
        | PoolError::NoPlaces
        | PoolError::NoRoom { .. }
        | PoolError::WarmRange { .. }
        | PoolError::TooManyWarm { .. } => Code::Setting,
        PoolError::Launch(launch) => of_launch(launch),
        PoolError::WarmUp(launch) => of_launch(launch),
        _ => Code::Failed,
    }
}

fn of_launch(error: &LaunchError) -> Code {
    match error {
        LaunchError::Template(template) => of_template(template),
        LaunchError::Snapshot(snapshot) => of_snapshot(snapshot),
        LaunchError::Vmm(
            VmmError::NotInstalled { path: Some(_), .. } | VmmError::Unusable { .. },
        ) => Code::Setting,
        LaunchError::Vmm(VmmError::NoSpace { .. }) => Code::Store,
        // Of an agent that was asked for nothing yet: the VM did not come up.
        LaunchError::Vmm(_)
        | LaunchError::Guest(_)
        | LaunchError::NoBoot { .. }
        | LaunchError::KernelPanic { .. } => Code::VmDied,
        LaunchError::BackendUnusable { .. }
        | LaunchError::UnknownBackend { .. }
        | LaunchError::NeedsBackend { .. }
        | LaunchError::NoGuestAgent { .. } => Code::Setting,
        _ => Code::Failed,
    }
}

fn of_guest(error: &GuestError) -> Code {
    match error {
        GuestError::Failed {
            kind: FailureKind::NotFound,
            ..
        } => Code::NotFound,
        GuestError::Failed {
            kind: FailureKind::NoSuchDirectory,
            ..
        } => Code::NoSuchDirectory,
        GuestError::Failed {
            kind:
                FailureKind::PermissionDenied
                | FailureKind::Invalid
                | FailureKind::NoSuchUser
                | FailureKind::Unsupported,
            ..
        }
        | GuestError::Invalid(..)
        | GuestError::TooLarge(..) => Code::CannotRun,
        GuestError::Closed { .. } | GuestError::WrongAnswer { .. } => Code::Protocol,
        GuestError::NoAnswer { .. } => Code::TimedOut,
        _ => Code::Failed,
    }
}

fn of_snapshot(error: &SnapshotError) -> Code {
    match error {
        SnapshotError::Store(_) => Code::Store,
        _ => Code::Failed,
    }
}

fn of_template(error: &TemplateError) -> Code {
    match error {
        TemplateError::Store(_) => Code::Store,
        _ => Code::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironclaw_orchestrator::vm::snapshot::{StoreError, StoreName};
    use ironclaw_orchestrator::vm::vmm::VmmKind;
    use std::io;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use ironclaw_console::written;
    use ironclaw_orchestrator::vm::guest::Printed;
    use ironclaw_orchestrator::vm::{ExitReason, Limit};

    fn failed(kind: FailureKind) -> Error {
        GuestError::Failed {
            kind,
            message: "m".to_owned(),
        }
        .into()
    }

    fn closed() -> GuestError {
        GuestError::Closed {
            reason: ExitReason::HungUp,
            printed: Printed::default(),
        }
    }

    #[test]
    fn each_failure_in_the_guest_has_the_code_a_shell_would_give() {
        for (kind, code_expected) in [
            (FailureKind::NotFound, 127),
            (FailureKind::PermissionDenied, 126),
            (FailureKind::Invalid, 126),
            (FailureKind::NoSuchUser, 126),
            (FailureKind::Unsupported, 126),
            (FailureKind::NoSuchDirectory, 123),
            (FailureKind::NoSpace, 125),
            (FailureKind::Io, 125),
        ] {
            assert_eq!(code(&failed(kind)), code_expected, "{kind:?}");
        }
    }

    fn launched(error: impl Into<LaunchError>) -> LaunchError {
        error.into()
    }

    #[test]
    fn a_guest_that_breaks_the_protocol_is_told_from_a_vm_that_ended() {
        let end = vmm::Exit::new("signal: 9 (SIGKILL)");
        assert_eq!(code(&closed().into()), 120);
        assert_eq!(code(&VmEnded(end).into()), 122);
        assert_eq!(code(&launched(closed()).into()), 122);
    }

    #[test]
    fn exit_codes_follow_the_library_s_error_kinds() {
        const STORE: StoreName = StoreName {
            what: "snapshot",
            setting: "IRONCLAW_SNAPSHOT_PATH",
        };
        let root = || {
            SnapshotError::from(StoreError::RootUnusable {
                store: STORE,
                operation: "open",
                path: PathBuf::from("/x"),
                source: io::ErrorKind::PermissionDenied.into(),
            })
        };
        assert_eq!(code(&root().into()), 119);
        assert_eq!(code(&launched(root()).into()), 119);
        assert_eq!(code(&PoolError::from(launched(root())).into()), 119);
        assert_eq!(
            code(&PoolError::WarmUp(Arc::new(launched(root()))).into()),
            119
        );
        assert_eq!(
            code(&SpawnError::from(PoolError::from(launched(root()))).into()),
            119
        );
        let full = SnapshotError::from(StoreError::NoSpace {
            store: STORE,
            operation: "write",
            path: PathBuf::from("/x"),
        });
        assert_eq!(code(&full.into()), 119);
        let operation = "start a VM in /x".to_owned();
        assert_eq!(code(&launched(VmmError::NoSpace { operation }).into()), 119);
        assert_eq!(code(&launched(VmmError::NoChannel).into()), 122);
        assert_eq!(
            code(&Error::new(launched(root())).context("around it")),
            119
        );
        assert_eq!(code(&anyhow::anyhow!("something")), 125);
    }

    #[test]
    fn a_forbidden_setting_and_a_failure_have_different_codes() {
        let limit = Limit::new(1, 128);
        let no_room = || PoolError::NoRoom {
            guest_mib: 128,
            limit,
        };
        let agent = LaunchError::NoGuestAgent { looked: vec![] };
        let taps = LaunchError::NeedsBackend {
            variable: "IRONCLAW_TAPS",
            needed: VmmKind::new("Firecracker"),
        };
        assert_eq!(code(&no_room().into()), 121);
        assert_eq!(code(&SpawnError::from(no_room()).into()), 121);
        assert_eq!(code(&agent.into()), 121);
        assert_eq!(code(&taps.into()), 121);
        let exhausted = SpawnError::PoolExhausted {
            waited: Duration::from_secs(1),
            limit,
        };
        assert_eq!(code(&exhausted.into()), 125);
    }

    #[test]
    fn a_cause_that_the_text_has_already_is_not_repeated() {
        let source = io::Error::other("disk on fire");
        let inner = SnapshotError::from(StoreError::Io {
            operation: "read",
            path: PathBuf::from("/x"),
            source,
        });
        let text = text(&Error::new(launched(inner)).context("can't make a VM")).unwrap();
        assert_eq!(text, "can't make a VM: cannot read /x: disk on fire");
    }

    #[test]
    fn a_closed_pipe_is_no_news() {
        let error = written(io::ErrorKind::BrokenPipe.into());
        assert_eq!((code(&error), text(&error)), (141, None));
    }

    #[test]
    fn codes_are_distinct_and_explained() {
        for (index, exit) in Code::ALL.iter().enumerate() {
            assert!(!exit.meaning().is_empty());
            assert!(
                Code::ALL[..index]
                    .iter()
                    .all(|other| *other as u8 != *exit as u8)
            );
        }
    }
}
