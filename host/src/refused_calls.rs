//! System calls that no VMM needs, and that a compromised one would try first: other processes,
//! sockets of other programs, files by path, and parts of the kernel with a record of exploits.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// System calls by number, with the conditions under which each is refused; without conditions,
/// always.
pub type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// System calls refused with any arguments.
const REFUSED: [i64; 64] = [
    // Other processes. A VMM signals its own threads by tgkill.
    libc::SYS_kill,
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
    // Sockets of others: it inherits its own, or listens.
    libc::SYS_connect,
    // Files, by path or by size.
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
    // Parts of the kernel with a record of exploits.
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

/// Returns the calls that any VMM is refused.
///
/// # Errors
/// None in practice: the rules are constant.
pub fn rules() -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED.map(|call| (call, Vec::new())).into();
    // Resetting the signal would let it outlive us.
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
    Ok(rules)
}

/// Compiles rules to a filter.
///
/// # Errors
/// A rule can't be expressed.
pub fn filter(rules: Rules) -> Result<BpfProgram, BackendError> {
    let (refused, allowed) = (
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
    );
    SeccompFilter::new(rules, allowed, refused, TargetArch::x86_64)?.try_into()
}

/// Compares the lower half of an argument.
///
/// # Errors
/// There is no such argument.
pub fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}
