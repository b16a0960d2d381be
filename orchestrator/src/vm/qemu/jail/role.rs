//! What a QEMU process is for, which says what its jail has to leave it.

use std::path::Path;

use crate::vm::vmm::Machine;

pub(super) const KVM: &str = "/dev/kvm";

/// The needs of a QEMU process.
#[derive(Debug, Clone, Copy)]
pub(in crate::vm::qemu) struct Role<'a> {
    pub(in crate::vm::qemu) machine: Machine,
    /// Files that it opens by path.
    pub(in crate::vm::qemu) reads: &'a [&'a Path],
    /// Whether it writes a snapshot.
    pub(in crate::vm::qemu) writes: bool,
    pub(in crate::vm::qemu) has_ram_file: bool,
    pub(in crate::vm::qemu) has_kvm: bool,
}
