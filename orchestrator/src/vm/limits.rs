//! Limits of a VM's lifetime.

use std::time::Duration;

/// The limits at which a VM is killed, if its holder does not end it before. Requests then fail
/// with [`GuestError::Closed`](super::GuestError::Closed), which has the reason. Both can be
/// changed while it lives: [`VmClient::set_deadline`](super::VmClient::set_deadline),
/// [`VmClient::set_idle_limit`](super::VmClient::set_idle_limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The maximum age, counted from when it was handed out.
    pub max_lifetime: Option<Duration>,
    /// The maximum time without a command, a file or a ping under way. A paused VM is not idle.
    pub idle: Option<Duration>,
}
