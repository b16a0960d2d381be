//! The specification of a VM: plain data that knows no template, snapshot or setting.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The size of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Memory in MiB, at least 1.
    pub memory_mib: u32,
    /// Virtual processors, at least 1.
    pub vcpus: u8,
}

impl Machine {
    /// Returns the memory in bytes, which is the size of the memory file.
    #[must_use]
    pub fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// The specification of a VM to boot.
#[derive(Debug, Clone)]
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
}

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
pub struct RestoreSpec {
    /// The guest's size, as at the snapshot.
    pub machine: Machine,
    /// The files of the snapshot.
    pub files: SavedFiles,
}

/// The files written by [`MicroVm::snapshot`](super::MicroVm::snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedFiles {
    /// The state of devices and vCPUs, in the VMM's format.
    pub vmstate: PathBuf,
    /// The guest's RAM; never written to.
    pub memory: PathBuf,
}
