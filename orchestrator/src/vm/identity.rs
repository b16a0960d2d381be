//! The identity of a clone: fresh entropy, time and names.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use ironclaw_protocol::limits::{ENTROPY, MAX_HOSTNAME};
use ironclaw_protocol::message::{Identity, SetIdentity, UnixTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::untrusted::is_deceptive;

/// The name of a VM, chosen by its user: 1 to 64 bytes of printable text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmName(String);

/// The error of a text that is no valid name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} can't name a VM: a name is 1 to {MAX_HOSTNAME} bytes of printable text")]
pub struct BadName(String);

impl VmName {
    pub(crate) fn parse(text: &str) -> Result<Self, BadName> {
        if (1..=MAX_HOSTNAME).contains(&text.len()) && !text.chars().any(is_deceptive) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName(text.chars().take(MAX_HOSTNAME).collect()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Converts the name to a host name; replaces invalid characters by hyphens.
    fn hostname(&self) -> String {
        let allowed = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        };
        self.0.chars().map(allowed).collect()
    }
}

/// By what a guest knows itself: the ids of its machine and of its boot, and its host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmIdentity {
    machine_id: Uuid,
    boot_id: Uuid,
    hostname: String,
}

impl From<&Identity> for VmIdentity {
    fn from(identity: &Identity) -> Self {
        Self {
            machine_id: Uuid::from_bytes(identity.machine_id),
            boot_id: Uuid::from_bytes(identity.boot_id),
            hostname: identity.hostname.clone(),
        }
    }
}

impl From<&VmIdentity> for Identity {
    fn from(identity: &VmIdentity) -> Self {
        Self {
            machine_id: *identity.machine_id.as_bytes(),
            boot_id: *identity.boot_id.as_bytes(),
            hostname: identity.hostname.clone(),
        }
    }
}

/// The error of the host's random generator.
#[derive(Debug, Error)]
#[error("the host's random generator failed")]
pub(crate) struct NoRandomness(#[from] pub(crate) io::Error);

fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    Ok(getrandom::fill(bytes).map_err(io::Error::from)?)
}

/// Creates a new identity for a guest called `name`, at this moment.
///
/// # Errors
/// The host's random generator failed; a guest must not be handed out without it.
pub(crate) fn fresh(name: &VmName) -> Result<SetIdentity, NoRandomness> {
    let mut random = [0; ENTROPY + 32];
    fill(&mut random)?;
    let part = |start: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&random[start..start + 16]);
        *uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .as_bytes()
    };
    let mut entropy = [0; ENTROPY];
    entropy.copy_from_slice(&random[..ENTROPY]);
    Ok(SetIdentity {
        entropy,
        unix_time: now(),
        identity: Identity {
            machine_id: part(ENTROPY),
            boot_id: part(ENTROPY + 16),
            hostname: name.hostname(),
        },
    })
}

/// Keeps a guest's identity, with new entropy, at this moment.
///
/// # Errors
/// As for [`fresh`].
pub(crate) fn again(identity: &Identity) -> Result<SetIdentity, NoRandomness> {
    let mut entropy = [0; ENTROPY];
    fill(&mut entropy)?;
    Ok(SetIdentity {
        entropy,
        unix_time: now(),
        identity: identity.clone(),
    })
}

fn now() -> UnixTime {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime {
        seconds: now.as_secs(),
        nanos: now.subsec_nanos(),
    }
}

/// Returns a name for guests without a user.
pub(crate) fn anonymous() -> VmName {
    VmName(format!("vm-{}", &Uuid::new_v4().simple().to_string()[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironclaw_protocol::message::Request;
    use proptest::prelude::*;

    #[test]
    fn two_identities_share_nothing() {
        let name = anonymous();
        let (a, b) = (fresh(&name).unwrap(), fresh(&name).unwrap());
        assert_ne!(a.entropy, b.entropy);
        assert_ne!(a.identity.machine_id, b.identity.machine_id);
        assert_ne!(a.identity.boot_id, b.identity.boot_id);
        assert_ne!(a.identity.machine_id, a.identity.boot_id);
    }

    proptest! {
        #[test]
        fn every_accepted_name_makes_an_identity_within_the_protocols_limits(text in ".{0,80}") {
            match VmName::parse(&text) {
                Ok(name) => {
                    let restored = Request::SetIdentity(fresh(&name).unwrap());
                    prop_assert_eq!(restored.validate(), Ok(()));
                }
                Err(_) => prop_assert!(
                    text.is_empty() || text.len() > 64 || text.chars().any(is_deceptive)
                ),
            }
        }
    }
}
