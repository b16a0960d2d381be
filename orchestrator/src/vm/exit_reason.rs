//! The reason why a VM, or the session with its guest, is over.

use std::fmt;
use std::time::Duration;

use crate::vm::vmm::Exit;

/// The reason why a VM, or the session with its guest, is over.
///
/// [`is_failure`](Self::is_failure) tells failures, after which a retry makes sense, from an end
/// caused by the VM's user or a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The VMM's process ended by itself: its guest powered off or panicked, the VMM failed, or
    /// others killed it.
    VmmEnded(Box<Exit>),
    /// The VM reached its deadline.
    Lifetime(Duration),
    /// The VM was idle for its idle time.
    Idle(Duration),
    /// Its user stopped it: its guest powered off, or was killed at the end of the grace period.
    Stopped,
    /// Its user destroyed it.
    Destroyed,
    /// Its user dropped its handle, or what the session was opened with.
    Dropped,
    /// Its pool was closed, with all VMs that it had handed out.
    PoolClosed,
    /// The guest hung up, though its VM runs.
    HungUp,
    /// The guest or its agent violated the protocol, in this way.
    Protocol(String),
    /// The host failed, in this way: its sockets, its random generator, or the async runtime in
    /// which the VM was spawned.
    Host(String),
}

impl ExitReason {
    /// Returns whether the VM ended by itself, so that another may do better. Otherwise its user,
    /// or a limit set by its user, ended it.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Self::VmmEnded(_) | Self::HungUp | Self::Protocol(_) | Self::Host(_) => true,
            Self::Lifetime(_)
            | Self::Idle(_)
            | Self::Stopped
            | Self::Destroyed
            | Self::Dropped
            | Self::PoolClosed => false,
        }
    }

    pub(crate) fn vmm_ended(exit: Exit) -> Self {
        Self::VmmEnded(Box::new(exit))
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VmmEnded(exit) => write!(f, "the VM ended ({exit})"),
            Self::Lifetime(limit) => write!(f, "the VM reached its time limit of {limit:?}"),
            Self::Idle(limit) => write!(f, "the VM was idle for {limit:?}, its limit"),
            Self::Stopped => f.write_str("the VM was stopped"),
            Self::Destroyed => f.write_str("the VM was destroyed"),
            Self::Dropped => f.write_str("the VM was given back"),
            Self::PoolClosed => f.write_str("the VM's pool was closed"),
            Self::HungUp => f.write_str("the guest hung up"),
            Self::Protocol(detail) | Self::Host(detail) => f.write_str(detail),
        }
    }
}
