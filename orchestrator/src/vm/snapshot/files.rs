//! The files of a snapshot, by role.

use std::fmt;
use std::str::FromStr;

use ironclaw_store::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::vm::vmm::Machine;
pub use crate::vm::vmm::{DiskId, ParseDiskIdError};

/// Limit of a VMM's state file in bytes, far beyond the kilobytes of a machine without RAM in it,
/// so that hashing it takes no time.
pub const MAX_VMSTATE_BYTES: u64 = 64 << 20;
/// Limit of a disk in bytes, holes included: its digest takes 1/2048 of that in memory.
pub const MAX_DISK_BYTES: u64 = 256 << 30;
/// Limit of a snapshot's disks.
pub const MAX_DISKS: usize = 16;

const MEMORY: &str = "memory";
const VMSTATE: &str = "vmstate";
const DISK_PREFIX: &str = "disk-";

/// The role of a snapshot's file. Its text is the file's name: `memory`, `vmstate`, or `disk-` and
/// the disk's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum FileRole {
    /// The guest's RAM.
    Memory,
    /// The state of vCPUs and devices, in the VMM's format.
    VmState,
    /// The content of a writable disk.
    Disk(DiskId),
}

/// The error of a text that is no role of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a file of a snapshot is `{MEMORY}`, `{VMSTATE}` or `{DISK_PREFIX}` and the name of a disk"
)]
pub struct ParseFileRoleError;

/// The properties that a file must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileRecord {
    /// The size in bytes, holes included.
    pub bytes: u64,
    /// The SHA-256 over the SHA-256 digests of the content in blocks of 64 KiB; holes read as
    /// zeros.
    pub sha256_of_blocks: Sha256Digest,
}

/// A defect in a file of an unpublished snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// It is missing.
    #[error("is missing")]
    Missing,
    /// It is a link, a pipe, a device or a directory.
    #[error("is not a regular file")]
    NotRegular,
    /// The size of the memory file differs from the machine's memory, or that of the scratch disk from
    /// the machine's disk.
    #[error("has {found} bytes instead of {expected}")]
    WrongSize {
        /// The size of the machine's memory or disk in bytes.
        expected: u64,
        /// The actual size in bytes.
        found: u64,
    },
    /// A state file or a disk is empty.
    #[error("is empty")]
    Empty,
    /// Too large for a state file or a disk: RAM went into the wrong file.
    #[error("has {found} bytes, more than the {limit} that such a file can have")]
    TooLarge {
        /// The actual size in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// An entry that is no file of the snapshot.
    #[error("does not belong into a snapshot")]
    Stray,
}

impl FileRole {
    /// Checks the size of such a file, for a guest on `machine`.
    pub(super) fn check(&self, machine: Machine, found: u64) -> Result<(), FileFault> {
        let limit = match self {
            Self::Memory => {
                let expected = machine.memory_bytes();
                return match found {
                    _ if found == expected => Ok(()),
                    _ => Err(FileFault::WrongSize { expected, found }),
                };
            }
            Self::Disk(id) if *id == DiskId::scratch() => {
                let expected = machine.disk_bytes();
                return match found {
                    _ if found == expected => Ok(()),
                    _ => Err(FileFault::WrongSize { expected, found }),
                };
            }
            Self::VmState => MAX_VMSTATE_BYTES,
            Self::Disk(_) => MAX_DISK_BYTES,
        };
        match found {
            0 => Err(FileFault::Empty),
            _ if found <= limit => Ok(()),
            _ => Err(FileFault::TooLarge { found, limit }),
        }
    }
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str(MEMORY),
            Self::VmState => f.write_str(VMSTATE),
            Self::Disk(id) => write!(f, "{DISK_PREFIX}{id}"),
        }
    }
}

impl FromStr for FileRole {
    type Err = ParseFileRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            MEMORY => Ok(Self::Memory),
            VMSTATE => Ok(Self::VmState),
            _ => {
                let id = text.strip_prefix(DISK_PREFIX).ok_or(ParseFileRoleError)?;
                id.parse().map(Self::Disk).map_err(|_| ParseFileRoleError)
            }
        }
    }
}

impl TryFrom<String> for FileRole {
    type Error = ParseFileRoleError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FileRole> for String {
    fn from(role: FileRole) -> Self {
        role.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_what_it_is_for_and_the_other_way_round() {
        let disk = FileRole::Disk("root".parse().unwrap());
        for (role, name) in [
            (FileRole::Memory, "memory"),
            (FileRole::VmState, "vmstate"),
            (disk, "disk-root"),
        ] {
            assert_eq!(role.to_string(), name);
            assert_eq!(name.parse(), Ok(role));
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none_of_a_file() {
        let long = format!("disk-{}", "x".repeat(33));
        for name in [
            "",
            "disk-",
            "disk-../x",
            "disk-a/b",
            "disk-A",
            "disk-.",
            "Memory",
            "manifest.json",
            "disk-\u{e9}",
            &long,
        ] {
            assert_eq!(name.parse::<FileRole>(), Err(ParseFileRoleError), "{name}");
        }
    }

    #[test]
    fn each_file_has_a_size_that_it_can_have() {
        let machine = Machine {
            memory_mib: 1,
            vcpus: 1,
            disk_mib: Some(2),
        };
        let disk = FileRole::Disk("root".parse().unwrap());
        let scratch = FileRole::Disk(DiskId::scratch());
        for (role, right, wrong) in [
            (FileRole::Memory, 1 << 20, (1 << 20) + 1),
            (scratch, 2 << 20, 1 << 20),
            (FileRole::VmState, MAX_VMSTATE_BYTES, MAX_VMSTATE_BYTES + 1),
            (disk, MAX_DISK_BYTES, MAX_DISK_BYTES + 1),
        ] {
            assert_eq!(role.check(machine, right), Ok(()), "{role}");
            for bytes in [0, wrong] {
                assert!(role.check(machine, bytes).is_err(), "{role} of {bytes}");
            }
        }
    }
}
