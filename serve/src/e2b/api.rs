//! What all calls have in common: what they are served by, and their bounds.

use std::sync::Arc;

use crate::builds::Builds;
use crate::keys::Keys;
use crate::sandbox_id::{ParseSandboxIdError, SandboxId};
use crate::sandboxes::Sandboxes;
use crate::uploads::Uploads;

/// The version of E2B's own agent whose calls are served, by which SDKs choose what they ask for:
/// <https://github.com/e2b-dev/E2B/blob/main/packages/python-sdk/e2b/envd/versions.py>.
pub(super) const ENVD_VERSION: &str = "0.6.4";

/// Which node runs a sandbox: there is one.
pub(super) const CLIENT: &str = "ironclaw";

/// Reads the id of a sandbox as clients write it: SDKs before 1.6 add that of the node, `ID-CLIENT`.
pub(super) fn sandbox_id(text: &str) -> Result<SandboxId, ParseSandboxIdError> {
    let id = text.strip_suffix(CLIENT);
    let id = id.and_then(|id| id.strip_suffix('-'));
    id.unwrap_or(text).parse()
}

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
