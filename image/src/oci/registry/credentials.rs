//! What proves to a registry who asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ironclaw_host::untrusted;

/// What proves who asks. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// A user and a password.
    Basic(String, String),
    /// What a server of tokens gives one for.
    IdentityToken(String),
    /// A token for the registry itself.
    RegistryToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic(..) => "Basic",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}

impl Credential {
    /// Returns the header that shows it, if it is shown as it is.
    pub(super) fn header(&self) -> Option<String> {
        match self {
            Self::Basic(user, password) => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{password}"))
            )),
            Self::RegistryToken(token) => Some(format!("Bearer {token}")),
            Self::IdentityToken(_) => None,
        }
    }
}

/// Returns a program's text for an error.
pub(super) fn shown(text: &[u8]) -> String {
    untrusted::message(String::from_utf8_lossy(text).trim())
}
