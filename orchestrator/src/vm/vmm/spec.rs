//! The specification of a VM: plain data that knows no template, snapshot or setting.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::disk_id::DiskId;

/// The size of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Machine {
    /// Memory in MiB, at least 1.
    pub memory_mib: u32,
    /// Virtual processors, at least 1.
    pub vcpus: u8,
    /// Limit of what it may write to its disk in MiB; `None` for a guest whose root is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
}

impl Machine {
    /// Returns a guest of this size, without a disk.
    #[must_use]
    pub const fn new(memory_mib: u32, vcpus: u8) -> Self {
        Self {
            memory_mib,
            vcpus,
            disk_mib: None,
        }
    }

    /// Returns a guest that may also write this much to its disk.
    #[must_use]
    pub const fn with_disk(self, mib: u32) -> Self {
        Self {
            disk_mib: Some(mib),
            ..self
        }
    }

    /// Returns the memory in bytes, which is the size of the memory file.
    #[must_use]
    pub fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// Returns the size of its writable disk in bytes; zero if it has none.
    #[must_use]
    pub fn disk_bytes(self) -> u64 {
        u64::from(self.disk_mib.unwrap_or(0)) << 20
    }
}

/// The specification of a VM to boot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmSpec {
    /// The guest's size.
    pub machine: Machine,
    /// The path of the kernel's image.
    pub kernel: PathBuf,
    /// The path of the initramfs, if there is one.
    pub initramfs: Option<PathBuf>,
    /// Arguments for the kernel that do not depend on the VMM, which adds its own.
    pub cmdline: String,
    /// The place of the guest's RAM.
    pub ram: Ram,
    /// The images that it reads, and shares with other VMs.
    pub images: Images,
    /// What its writable disks contain at first: each VM gets copies of these files, which go with
    /// it.
    pub scratch: Scratch,
}

/// Read-only disks, by name. The guest finds them in the order of their names, before the writable
/// ones. Nothing writes to these files while a VM lives.
pub type Images = BTreeMap<DiskId, PathBuf>;

/// Files with the content of writable disks, by name.
pub type Scratch = BTreeMap<DiskId, PathBuf>;

/// The place of a booted guest's RAM.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Ram {
    /// Private memory of the VMM's process.
    Private,
    /// This file, created by the VMM, so that a snapshot need not copy it. A VMM that does not
    /// support it ignores the path until [`MicroVm::snapshot`](super::MicroVm::snapshot) names it
    /// again.
    File(PathBuf),
}

/// The specification of a VM to restore. The caller guarantees that the files do not change while
/// the VM lives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreSpec {
    /// The guest's size, as at the snapshot.
    pub machine: Machine,
    /// The files of the snapshot. The clone gets copies of its disks.
    pub files: SavedFiles,
    /// The images that it shares with other VMs, with the same names and content as at the
    /// snapshot.
    pub images: Images,
}

/// The files written by [`MicroVm::snapshot`](super::MicroVm::snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedFiles {
    /// The state of devices and vCPUs, in the VMM's format.
    pub vmstate: PathBuf,
    /// The guest's RAM; never written to.
    pub memory: PathBuf,
    /// The writable disks at that moment.
    pub disks: Scratch,
}
