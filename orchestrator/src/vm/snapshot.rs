//! Snapshots on disk: made in private, published by one rename, immutable afterwards.
//!
//! ```text
//! <root>/<id>/.ironclaw       the mark that it is ours
//!             memory          the guest's RAM; zero pages are holes
//!             vmstate         processors and devices, in the VMM's format
//!             disk-<name>     what a disk held, if there are any
//!             manifest.json   Manifest: what it is, and what its files must be
//!        checkpoint-<id>/     the same of a VM that somebody used (Kind)
//!        .staging-<id>-…/     one that is being made, and for what; locked while its maker lives
//!        .trash-<id>/         one that is being deleted
//!        .verified-<id>       in which boot of the host one of an earlier boot was hashed
//! ```
//!
//! A directory's lock shows who uses it, and ends with the process that holds it: exclusive while a
//! snapshot is made, shared by everything restored from it. So any number of processes share one
//! root, nothing of a living owner is ever removed, and the leftovers of a killed process are
//! recognized: see [`ironclaw_store`], which keeps them. The kernel tells who holds a lock
//! ([`Owners`]).
//!
//! All functions block; asynchronous callers have to run them on a thread for blocking work.

mod checkpoints;
mod compat;
mod defect;
mod delete;
mod error;
mod files;
mod format2;
mod host;
mod id;
mod inspect;
mod kind;
mod label;
mod manifest;
mod published;
mod retention;
mod search;
mod staging;
mod store;
#[cfg(test)]
mod tests;
mod verified;

pub use ironclaw_store::{
    Owner, Owners, ParseDigestError, Sha256Digest, StoreError, StoreName, Swept, Timestamp,
};

pub use compat::{Mismatch, Requirements, TSC_TOLERANCE_PPM};
pub use defect::{Defect, Part};
pub use error::SnapshotError;
pub use files::{
    DiskId, FileFault, FileRecord, FileRole, MAX_DISK_BYTES, MAX_DISKS, MAX_VMSTATE_BYTES,
    ParseDiskIdError, ParseFileRoleError,
};
pub use host::{Host, HostError};
pub use id::{ParseSnapshotIdError, SnapshotId};
pub use kind::{Checkpoint, Kind, KindName};
pub use manifest::{Description, FORMAT, Manifest};
pub use published::Snapshot;
#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
pub(crate) mod fuzz {
    pub(crate) use super::host::fuzz as cpuinfo;
    pub(crate) use super::manifest::fuzz as manifest;
}
pub(crate) use search::{FindOrBuild, InProgress, PublishedPin};
pub use staging::{Published, Staging};
pub use store::{Entry, SnapshotStore, Verified};
