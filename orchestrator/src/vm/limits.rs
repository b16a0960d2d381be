//! Limits of a VM's lifetime.

use std::time::Duration;

/// The limits at which a VM is killed, if its holder does not end it before. Requests then fail
/// with [`GuestError::Closed`](super::GuestError::Closed), which has the reason. Both can be
/// changed while it lives: [`VmClient::set_deadline`](super::VmClient::set_deadline),
/// [`VmClient::set_idle_limit`](super::VmClient::set_idle_limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum age, counted from when it was handed out.
    pub max_lifetime: Option<Duration>,
    /// The maximum time without a command, a file or a ping under way. A paused VM is not idle.
    pub idle: Option<Duration>,
}

impl Limits {
    /// Returns these limits with another maximum of the [age](Self::max_lifetime).
    #[must_use]
    pub fn with_max_lifetime(self, max_lifetime: impl Into<Option<Duration>>) -> Self {
        let max_lifetime = max_lifetime.into();
        Self {
            max_lifetime,
            ..self
        }
    }

    /// Returns these limits with another maximum of the [idle time](Self::idle).
    #[must_use]
    pub fn with_idle(self, idle: impl Into<Option<Duration>>) -> Self {
        let idle = idle.into();
        Self { idle, ..self }
    }
}
