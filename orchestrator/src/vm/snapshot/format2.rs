//! Reads manifests of format 2, in which all snapshots are bases with two files.

use ironclaw_store::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::files::FileRecord;
use super::host::Host;
use super::id::SnapshotId;
use crate::template::TemplateHash;
use crate::vm::vmm::{Machine, VmmIdentity};

pub(super) const FORMAT: u32 = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Former {
    #[serde(rename = "format")]
    pub(super) _format: u32,
    pub(super) id: SnapshotId,
    pub(super) generation: u64,
    pub(super) template: TemplateHash,
    pub(super) vmm: VmmIdentity,
    pub(super) machine: Machine,
    pub(super) host: Host,
    pub(super) boot_id: Uuid,
    pub(super) created: Timestamp,
    pub(super) files: Files,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    pub(super) memory: FileRecord,
    pub(super) vmstate: FileRecord,
}
