//! What all calls have in common: what they are served by, and their bounds.

use std::sync::Arc;

use crate::builds::Builds;
use crate::keys::Keys;
use crate::sandboxes::Sandboxes;
use crate::uploads::Uploads;

/// The version of E2B's own agent whose calls are served, by which SDKs choose what they ask for:
/// <https://github.com/e2b-dev/E2B/blob/main/packages/python-sdk/e2b/envd/versions.py>.
pub(super) const ENVD_VERSION: &str = "0.6.4";

/// Limit of a request's body where it is no file, in bytes: what a command may have of arguments, as
/// base64 or JSON.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;

/// What requests are served by.
#[derive(Debug, Clone)]
pub(super) struct Api(pub(super) Arc<Served>);

#[derive(Debug)]
pub(super) struct Served {
    pub(super) sandboxes: Sandboxes,
    pub(super) keys: Keys,
    pub(super) builds: Builds,
    pub(super) uploads: Uploads,
}
