//! Why a VM is over, or the session with its guest.

use std::fmt;
use std::time::Duration;

use crate::vm::vmm::Exit;

/// Why a VM is over, or the session with its guest.
///
/// What its user or a limit ended is to be ended, and is not tried again:
/// [`is_failure`](Self::is_failure) tells the one from the other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The VMM's process ended without being asked: its guest powered off or panicked, the VMM failed,
    /// or somebody else killed it.
    VmmEnded(Box<Exit>),
    /// The VM reached its deadline.
    Lifetime(Duration),
    /// Nothing was under way in it for as long as it may be idle.
    Idle(Duration),
    /// It was stopped as its user asked: its guest powered off, or was killed when its time for that was
    /// over.
    Stopped,
    /// Its user destroyed it.
    Destroyed,
    /// Its user dropped its handle, or what the session was opened with.
    Dropped,
    /// Its pool was closed, with all VMs that it had handed out.
    PoolClosed,
    /// The guest hung up, though its VM runs.
    HungUp,
    /// The guest, or its agent, broke the protocol: what it did.
    Protocol(String),
    /// The host failed: its sockets, its random numbers, or the async runtime in which the VM was
    /// spawned. What happened.
    Host(String),
}

impl ExitReason {
    /// Whether it ended by itself, and another VM may do better. If not, its user or a limit that its
    /// user had set ended it.
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
