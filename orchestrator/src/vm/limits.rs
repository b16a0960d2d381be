//! How long a VM may live.

use std::time::Duration;

/// When a VM is killed, if its holder does not end it before. What is asked of it then fails with
/// [`GuestError::Closed`](super::GuestError::Closed), which says so. Both can be changed while it lives:
/// [`VmClient::set_deadline`](super::VmClient::set_deadline),
/// [`VmClient::set_idle_limit`](super::VmClient::set_idle_limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// At this age, counted from when it was handed out.
    pub max_lifetime: Option<Duration>,
    /// When nothing was under way in it for so long: no command, no file, no ping. A VM that is paused
    /// is not idle.
    pub idle: Option<Duration>,
}
