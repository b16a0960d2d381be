//! Names of staging directories: what will be in one, and for what.
//!
//! So processes that need the same find the one that makes it.

use ironclaw_store::{STAGING_PREFIX, Sha256Digest};

use super::compat::Requirements;
use super::id::SnapshotId;
use super::kind::KindName;

/// For what a snapshot is made. The frequency of the host's clock is left out, since each process
/// measures it a little differently.
pub(super) fn purpose(requirements: &Requirements, kind: KindName) -> String {
    let Requirements {
        template,
        vmm,
        machine,
        host: _,
    } = requirements;
    let purpose = format!("{template:?} {vmm:?} {machine:?}");
    match kind {
        KindName::Base => Sha256Digest::of(purpose),
        // Nobody waits for one.
        KindName::Checkpoint => Sha256Digest::of(format!("{purpose} {kind}")),
    }
    .short()
}

/// What follows the prefix in the name of a staging directory.
pub(super) fn label(id: SnapshotId, purpose: &str) -> String {
    format!("{id}-{purpose}")
}

/// The snapshot that a staging directory of this name and purpose will become.
pub(super) fn id_for(name: &str, purpose: &str) -> Option<SnapshotId> {
    let label = name.strip_prefix(STAGING_PREFIX)?;
    let id = label.strip_suffix(purpose)?.strip_suffix('-')?;
    id.parse().ok()
}
