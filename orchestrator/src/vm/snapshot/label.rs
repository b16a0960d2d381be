//! Labels in the names of staging directories: the future snapshot, and its purpose.
//!
//! By them, processes that need the same snapshot find the one that makes it.

use ironclaw_store::{STAGING_PREFIX, Sha256Digest};

use super::compat::Requirements;
use super::id::SnapshotId;
use super::kind::KindName;

/// Returns the purpose of a snapshot. Leaves out the frequency of the host's clock, which each
/// process measures a little differently.
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

/// Returns the label of a staging directory, which follows the prefix.
pub(super) fn label(id: SnapshotId, purpose: &str) -> String {
    format!("{id}-{purpose}")
}

/// Returns the future snapshot of a staging directory, if its name has this purpose.
pub(super) fn id_for(name: &str, purpose: &str) -> Option<SnapshotId> {
    let label = name.strip_prefix(STAGING_PREFIX)?;
    let id = label.strip_suffix(purpose)?.strip_suffix('-')?;
    id.parse().ok()
}
