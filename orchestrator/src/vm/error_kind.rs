//! The kind of each error, for programs that decide by it: the text of an error is for people.

use std::error::Error;
use std::fmt;

use ironclaw_store::StoreError;

use crate::template::TemplateError;
use crate::vm::checkpoint::CheckpointError;
use crate::vm::config::ConfigError;
use crate::vm::guest::GuestError;
use crate::vm::identity::BadName;
use crate::vm::instance::VmError;
use crate::vm::launcher::LaunchError;
use crate::vm::lifecycle::Denied;
use crate::vm::pool::{PoolError, SpawnError};
use crate::vm::snapshot::SnapshotError;
use crate::vm::vm_handle::DestroyError;
use crate::vm::vmm::VmmError;

/// A kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is wrong, or an option contradicts another.
    Setting,
    /// A program that is needed is not installed.
    NotInstalled,
    /// A program, a device or a file that a setting names can't be used.
    Unusable,
    /// The request is not valid: a name, a command, a hash.
    Invalid,
    /// There is no such snapshot or template.
    NotFound,
    /// A snapshot is damaged, does not fit this host, or is not what it was taken for.
    Snapshot,
    /// A template is damaged, or can't be built.
    Template,
    /// The directory of snapshots or templates can't be used.
    Store,
    /// A disk is full.
    NoSpace,
    /// All VMs that are allowed exist.
    NoRoom,
    /// Others came first, or use what was to be changed.
    Busy,
    /// Something took too long.
    TimedOut,
    /// Something could not be downloaded.
    Network,
    /// The VMM died, refused, or could not be understood.
    Vmm,
    /// The guest did not come up.
    Boot,
    /// The guest answered that it could not do it.
    Guest,
    /// The guest sent more than was to be collected.
    TooMuchOutput,
    /// The guest broke the protocol.
    Protocol,
    /// The VM, or the session with its guest, is over.
    VmOver,
    /// The VM's state does not allow it.
    Denied,
    /// The pool, or the runtime that it was opened in, is closed.
    Closed,
    /// The operating system refused a call.
    Host,
    /// A part of the program panicked.
    Panicked,
}

impl ErrorKind {
    /// Returns its name for programs, which stays the same between releases.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::NotInstalled => "not_installed",
            Self::Unusable => "unusable",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Snapshot => "snapshot",
            Self::Template => "template",
            Self::Store => "store",
            Self::NoSpace => "no_space",
            Self::NoRoom => "no_room",
            Self::Busy => "busy",
            Self::TimedOut => "timed_out",
            Self::Network => "network",
            Self::Vmm => "vmm",
            Self::Boot => "boot",
            Self::Guest => "guest",
            Self::TooMuchOutput => "too_much_output",
            Self::Protocol => "protocol",
            Self::VmOver => "vm_over",
            Self::Denied => "denied",
            Self::Closed => "closed",
            Self::Host => "host",
            Self::Panicked => "panicked",
        }
    }

    /// Returns whether the same call may succeed later, or with another VM, though nobody changes
    /// anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NoRoom
                | Self::Busy
                | Self::TimedOut
                | Self::Network
                | Self::Vmm
                | Self::Boot
                | Self::Protocol
        )
    }

    /// Returns the kind of a library error, or of the first among its causes; `None` for errors of
    /// others.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(kind) = of_one(error) {
                return Some(kind);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns whether another VM may do better after this error: what its own `is_retryable` says, or that
/// of the first error of the library among its causes; `false` for errors of others. For programs that
/// put errors of several types into one.
///
/// ```
/// # use ironclaw_orchestrator::vm;
/// fn tries_again(error: &anyhow::Error) -> bool {
///     vm::is_retryable(error.as_ref())
/// }
/// # assert!(!tries_again(&anyhow::anyhow!("something else")));
/// ```
#[must_use]
pub fn is_retryable(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<GuestError>() {
            return error.is_retryable();
        }
        if let Some(kind) = of_one(error) {
            return kind.is_retryable();
        }
        next = error.source();
    }
    false
}

/// Gives errors their methods, and finds them behind a `dyn Error`.
macro_rules! errors {
    ($($error:ty: $kind:ident),* $(,)?) => {
        $(impl $error {
            /// Returns what kind of error it is.
            #[must_use]
            pub fn kind(&self) -> ErrorKind {
                $kind(self)
            }
        })*

        fn of_one(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
            $(if let Some(error) = error.downcast_ref::<$error>() {
                return Some(error.kind());
            })*
            // Those of other packages have no methods of this one.
            let template = error.downcast_ref::<TemplateError>().map(of_template);
            template.or_else(|| error.downcast_ref::<StoreError>().map(of_store))
        }
    };
}

/// Implements `is_retryable` for errors whose kind alone decides it.
macro_rules! retryable_by_kind {
    ($($error:ty),* $(,)?) => {
        $(impl $error {
            /// Returns whether the same call may succeed later though nobody changes anything.
            #[must_use]
            pub fn is_retryable(&self) -> bool {
                self.kind().is_retryable()
            }
        })*
    };
}

errors! {
    BadName: of_name,
    CheckpointError: of_checkpoint,
    ConfigError: of_config,
    DestroyError: of_destroy,
    GuestError: of_guest,
    LaunchError: of_launch,
    PoolError: of_pool,
    SnapshotError: of_snapshot,
    SpawnError: of_spawn,
    VmError: of_vm,
    VmmError: of_vmm,
}

retryable_by_kind! {
    BadName, CheckpointError, ConfigError, LaunchError, PoolError, SnapshotError, SpawnError,
    VmError, VmmError,
}

impl GuestError {
    /// Returns whether another VM may do better: its VM ended by itself, or does not answer.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Closed { reason, .. } => reason.is_failure(),
            error => error.kind().is_retryable(),
        }
    }
}

fn of_name(_: &BadName) -> ErrorKind {
    ErrorKind::Invalid
}

fn of_config(_: &ConfigError) -> ErrorKind {
    ErrorKind::Setting
}

fn of_store(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::NoSpace { .. } => ErrorKind::NoSpace,
        StoreError::Busy { .. } => ErrorKind::Busy,
        _ => ErrorKind::Store,
    }
}

fn of_snapshot(error: &SnapshotError) -> ErrorKind {
    match error {
        SnapshotError::Store(store) => of_store(store),
        SnapshotError::Host(_) => ErrorKind::Host,
        SnapshotError::NotFound { .. } => ErrorKind::NotFound,
        SnapshotError::InUse { .. } => ErrorKind::Busy,
        SnapshotError::NotOwner { .. } => ErrorKind::Denied,
        SnapshotError::OtherKind { .. }
        | SnapshotError::Defective { .. }
        | SnapshotError::Incompatible { .. }
        | SnapshotError::Corrupt { .. }
        | SnapshotError::Unpublishable { .. }
        | SnapshotError::BadDescription { .. } => ErrorKind::Snapshot,
    }
}

fn of_template(error: &TemplateError) -> ErrorKind {
    match error {
        TemplateError::Store(store) => of_store(store),
        TemplateError::NoBuilder { .. } => ErrorKind::NotInstalled,
        TemplateError::NotFound { .. } => ErrorKind::NotFound,
        TemplateError::BootArgs { .. } | TemplateError::BadHash { .. } => ErrorKind::Invalid,
        TemplateError::ToolMissing { .. } => ErrorKind::NotInstalled,
        TemplateError::ToolTimedOut { .. } => ErrorKind::TimedOut,
        TemplateError::Download { .. } => ErrorKind::Network,
        _ => ErrorKind::Template,
    }
}

fn of_vmm(error: &VmmError) -> ErrorKind {
    match error {
        VmmError::NotInstalled { .. } => ErrorKind::NotInstalled,
        VmmError::Unusable { .. } => ErrorKind::Unusable,
        VmmError::Io { .. } => ErrorKind::Host,
        VmmError::NoSpace { .. } => ErrorKind::NoSpace,
        VmmError::TimedOut { .. } => ErrorKind::TimedOut,
        VmmError::Died { .. }
        | VmmError::Refused { .. }
        | VmmError::Protocol { .. }
        | VmmError::NoChannel => ErrorKind::Vmm,
    }
}

fn of_guest(error: &GuestError) -> ErrorKind {
    match error {
        GuestError::Failed { .. } => ErrorKind::Guest,
        GuestError::TakenOver => ErrorKind::Denied,
        GuestError::Interrupted { .. } => ErrorKind::Busy,
        GuestError::Closed { .. } => ErrorKind::VmOver,
        GuestError::TooMuchOutput { .. } => ErrorKind::TooMuchOutput,
        GuestError::NoAnswer { .. } => ErrorKind::TimedOut,
        GuestError::Invalid(_) | GuestError::TooLarge(_) => ErrorKind::Invalid,
        GuestError::WrongAnswer { .. } => ErrorKind::Protocol,
    }
}

fn of_launch(error: &LaunchError) -> ErrorKind {
    match error {
        LaunchError::Template(template) => of_template(template),
        LaunchError::Vmm(vmm) => of_vmm(vmm),
        // It was asked for nothing yet.
        LaunchError::Guest(_) | LaunchError::NoBoot { .. } | LaunchError::KernelPanic { .. } => {
            ErrorKind::Boot
        }
        LaunchError::Snapshot(snapshot) => of_snapshot(snapshot),
        LaunchError::Name(name) => of_name(name),
        LaunchError::NotReleased { .. } => ErrorKind::TimedOut,
        LaunchError::WarmUp { .. } => ErrorKind::Guest,
        LaunchError::NoGuestAgent { .. } => ErrorKind::NotInstalled,
        LaunchError::BackendUnusable { .. } => ErrorKind::Unusable,
        LaunchError::UnknownBackend { .. } | LaunchError::NeedsBackend { .. } => ErrorKind::Setting,
        LaunchError::Random(_) => ErrorKind::Host,
        LaunchError::Panicked { .. } => ErrorKind::Panicked,
        LaunchError::ShuttingDown => ErrorKind::Closed,
    }
}

fn of_pool(error: &PoolError) -> ErrorKind {
    match error {
        PoolError::Config(config) => of_config(config),
        PoolError::Launch(launch) => of_launch(launch),
        PoolError::WarmUp(launch) => of_launch(launch),
        PoolError::NoPlaces
        | PoolError::NoRoom { .. }
        | PoolError::WarmRange { .. }
        | PoolError::TooManyWarm { .. } => ErrorKind::Setting,
        PoolError::Closed | PoolError::RuntimeEnded => ErrorKind::Closed,
    }
}

fn of_spawn(error: &SpawnError) -> ErrorKind {
    match error {
        SpawnError::Name(name) => of_name(name),
        SpawnError::Pool(pool) => of_pool(pool),
        SpawnError::PoolExhausted { .. } => ErrorKind::NoRoom,
        SpawnError::StartsBusy { .. } => ErrorKind::Busy,
        SpawnError::TimedOut { .. } => ErrorKind::TimedOut,
        SpawnError::Closed | SpawnError::RuntimeEnded => ErrorKind::Closed,
        // The last tier is the one that should have worked whatever befell the others.
        SpawnError::Failed(tiers) => {
            let last = tiers.iter().last();
            last.map_or(ErrorKind::Vmm, |(_, error)| of_launch(error))
        }
    }
}

fn of_vm(error: &VmError) -> ErrorKind {
    match error {
        VmError::Denied(denied) => of_denied(denied),
        VmError::Vmm(vmm) | VmError::NoCheckpoint(vmm) => of_vmm(vmm),
        VmError::Guest(guest) => of_guest(guest),
    }
}

fn of_checkpoint(error: &CheckpointError) -> ErrorKind {
    match error {
        CheckpointError::Vm(vm) => of_vm(vm),
        CheckpointError::Snapshot(snapshot) => of_snapshot(snapshot),
        CheckpointError::ShuttingDown => ErrorKind::Closed,
    }
}

fn of_denied(denied: &Denied) -> ErrorKind {
    match denied {
        Denied::Starting | Denied::Stopping => ErrorKind::Denied,
        Denied::Gone(_) => ErrorKind::VmOver,
        Denied::Busy => ErrorKind::Busy,
    }
}

fn of_destroy(_: &DestroyError) -> ErrorKind {
    ErrorKind::TimedOut
}

#[cfg(test)]
mod tests;
