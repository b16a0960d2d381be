//! Who asks, by the key that they present.

use axum::http::{HeaderMap, header};

use crate::database::DatabaseError;
use crate::keys::Keys;
use crate::peer::Peer;

/// The header with an API key.
const API_KEY: &str = "x-api-key";

/// The name under which those are known who come over the Unix socket without a key.
const LOCAL: &str = "local";

/// Who asks: the name of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller(pub(crate) String);

/// The reason why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("an API key is needed, in the header X-API-Key; `ironclaw key create` makes one")]
    NoKey,
    #[error("this API key is none, or was revoked")]
    BadKey,
    /// For the log alone, as to what it is.
    #[error("keys can't be looked up now")]
    Unknown(#[source] DatabaseError),
}

impl Caller {
    /// Returns who has the key that a request presents, or comes over the Unix socket without one.
    pub(crate) fn of(
        keys: &Keys,
        peer: Option<Peer>,
        headers: &HeaderMap,
    ) -> Result<Self, Stranger> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let bearer = || text(header::AUTHORIZATION.as_str())?.strip_prefix("Bearer ");
        let Some(key) = text(API_KEY).or_else(bearer) else {
            return match peer {
                Some(Peer::Local) => Ok(Self(LOCAL.to_owned())),
                _ => Err(Stranger::NoKey),
            };
        };
        match keys.holder(key) {
            Ok(Some(name)) => Ok(Self(name)),
            Ok(None) => Err(Stranger::BadKey),
            Err(error) => Err(Stranger::Unknown(error)),
        }
    }
}
