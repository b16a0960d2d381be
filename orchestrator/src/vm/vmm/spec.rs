//! What a VM is made of: plain data, which knows no template, snapshot or setting.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Size of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Memory in MiB, at least 1.
    pub memory_mib: u32,
    /// Virtual processors, at least 1.
    pub vcpus: u8,
}

impl Machine {
    /// Memory in bytes: the size of the memory file.
    #[must_use]
    pub fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// A VM that boots.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Memory and processors.
    pub machine: Machine,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initial file system, if there is one.
    pub initramfs: Option<PathBuf>,
    /// Arguments for the kernel that do not depend on the VMM, which adds its own.
    pub cmdline: String,
    /// Where the guest's RAM lives.
    pub ram: Ram,
}

/// Where a booted guest's RAM lives.
#[derive(Debug, Clone)]
pub enum Ram {
    /// In memory of the VMM's process.
    Private,
    /// In this file, which the VMM creates, so that a snapshot need not copy it. A VMM that
    /// can't, ignores the path until [`MicroVm::snapshot`](super::MicroVm::snapshot) names it again.
    File(PathBuf),
}

/// A VM that goes on where another one was stopped. Whoever has it made sees to it that the files
/// stay as they are while the VM lives.
#[derive(Debug, Clone)]
pub struct RestoreSpec {
    /// Memory and processors, as they were.
    pub machine: Machine,
    /// What was saved.
    pub files: SavedFiles,
}

/// What [`MicroVm::snapshot`](super::MicroVm::snapshot) writes.
#[derive(Debug, Clone)]
pub struct SavedFiles {
    /// State of devices and processors, in the VMM's format.
    pub vmstate: PathBuf,
    /// The guest's RAM: never written to.
    pub memory: PathBuf,
}
