//! System calls that QEMU is refused beside those that its own sandbox refuses.
//!
//! It is a list of what a VMM that was taken over would begin with, and QEMU never needs: other
//! processes, new sockets, files that are opened to be written, and whatever else of the kernel has
//! often been a way out. QEMU's own list is for any QEMU and leaves these open.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Refused whatever its arguments are.
const REFUSED: [i64; 70] = [
    // Other processes. A thread of its own is signalled by tgkill.
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    // Sockets: it has those that it was started with.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Files, by name or by their size.
    libc::SYS_creat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_truncate,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    // Namespaces, mounts, and other roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    // Parts of the kernel with a history.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_modify_ldt,
    libc::SYS_personality,
    libc::SYS_vmsplice,
];

/// The filter. Files may be opened to read; to read and write only as QEMU opens its guest's RAM,
/// if it `has_ram_file`, and the device of KVM, if it `has_kvm`.
pub(super) fn filter(
    has_ram_file: bool,
    has_kvm: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    for (call, flags_at) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
        rules.insert(call, written(flags_at, has_ram_file, has_kvm)?);
    }
    // It would not end with us any more.
    let death_signal = u64::from(libc::PR_SET_PDEATHSIG.cast_unsigned());
    let of_death_signal = condition(0, SeccompCmpOp::Eq, death_signal)?;
    rules.insert(
        libc::SYS_prctl,
        vec![SeccompRule::new(vec![of_death_signal])?],
    );
    let of_another = condition(0, SeccompCmpOp::Ne, 0)?;
    rules.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![of_another])?],
    );
    let (refused, allowed) = (
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
    );
    SeccompFilter::new(rules, allowed, refused, TargetArch::x86_64)?.try_into()
}

/// Which opens may write, or make a file.
fn written(
    flags_at: u8,
    has_ram_file: bool,
    has_kvm: bool,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let bits = |flags: i32| u64::from(flags.cast_unsigned());
    let masked = |mask: i32, value: i32| {
        condition(flags_at, SeccompCmpOp::MaskedEq(bits(mask)), bits(value))
    };
    let mut read_and_write = vec![masked(libc::O_ACCMODE, libc::O_RDWR)?];
    for (allowed, flags) in [
        (has_ram_file, libc::O_RDWR),
        (has_kvm, libc::O_RDWR | libc::O_CLOEXEC),
    ] {
        if allowed {
            read_and_write.push(condition(flags_at, SeccompCmpOp::Ne, bits(flags))?);
        }
    }
    Ok(vec![
        SeccompRule::new(read_and_write)?,
        SeccompRule::new(vec![masked(libc::O_ACCMODE, libc::O_WRONLY)?])?,
        SeccompRule::new(vec![masked(libc::O_ACCMODE, libc::O_ACCMODE)?])?,
        SeccompRule::new(vec![masked(libc::O_CREAT, libc::O_CREAT)?])?,
        SeccompRule::new(vec![masked(libc::O_TRUNC, libc::O_TRUNC)?])?,
        SeccompRule::new(vec![masked(libc::O_TMPFILE, libc::O_TMPFILE)?])?,
    ])
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}
