//! The limits of a jailed QEMU process.

use rustix::process::Resource;

use super::role::Role;
use crate::vm::vmm::Machine;

/// Bytes that a VM which makes a snapshot may write to a file, beyond its memory.
const EXTRA_FILE: u64 = 64 << 20;
/// Address space beyond the guest's memory: QEMU uses some 600 MB, most of it libraries and stacks
/// of threads that are never touched.
const EXTRA_ADDRESSES: u64 = 4 << 30;
/// Threads beyond the guest's vCPUs. QEMU exits when it can't start one.
const THREADS: u32 = 32;
/// Threads that read and write a guest's disks (THREAD_POOL_MAX_THREADS_DEFAULT of QEMU).
const DISK_THREADS: u32 = 64;
const DESCRIPTORS: u64 = 1024;

/// Returns the limit of a process's threads.
pub(super) fn threads(machine: Machine) -> u32 {
    let of_disks = machine.disk_mib.map_or(0, |_| DISK_THREADS);
    u32::from(machine.vcpus) + THREADS + of_disks
}

/// Returns the limits of a process in `role`; one whose user has nothing else is limited in its threads, too.
pub(super) fn limits(role: Role<'_>, has_own_user: bool) -> Vec<(Resource, u64)> {
    let memory = role.machine.memory_bytes();
    let file = if role.writes { memory + EXTRA_FILE } else { 0 };
    let file = file.max(role.machine.disk_bytes());
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Fsize, file),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::As, memory + EXTRA_ADDRESSES),
    ];
    // The limit counts all processes of the user.
    if has_own_user {
        limits.push((Resource::Nproc, threads(role.machine).into()));
    }
    limits
}
