//! The message by which a clone gets an identity of its own.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::bounds::{OutOfBounds, check};
use crate::limits::{ENTROPY, MAX_HOSTNAME};

/// The properties that differ between clones: see "A clone is not a copy" in the guide.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetIdentity {
    /// Fresh bytes of the host's random generator, credited in full.
    pub entropy: [u8; ENTROPY],
    /// The time at which the host sent this.
    pub unix_time: UnixTime,
    /// The clone's new identity.
    pub identity: Identity,
}

/// A time since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixTime {
    /// Whole seconds.
    pub seconds: u64,
    /// Nanoseconds of the current second, below 1,000,000,000.
    pub nanos: u32,
}

/// The names of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The content of `/etc/machine-id`.
    pub machine_id: [u8; 16],
    /// The content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// The host name, at most [`MAX_HOSTNAME`] bytes.
    pub hostname: String,
}

impl SetIdentity {
    pub(super) fn validate(&self) -> Result<(), OutOfBounds> {
        let name = &self.identity.hostname;
        check(
            self.unix_time.nanos < 1_000_000_000,
            "nanoseconds of a full second",
        )?;
        check(!name.is_empty(), "an empty host name")?;
        check(name.len() <= MAX_HOSTNAME, "a host name is too long")?;
        check(
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'),
            "a host name holds other than letters, digits, '-' and '.'",
        )
    }
}
