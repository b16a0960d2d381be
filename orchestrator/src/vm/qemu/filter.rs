//! A seccomp filter that refuses QEMU more system calls than its own sandbox does.
//!
//! It lists what a compromised VMM would try first and QEMU never needs: the calls that no VMM
//! needs, new sockets, and files opened for writing. QEMU's own filter has to fit every use of
//! QEMU, and allows these.

use ironclaw_host::refused_calls::{self, condition};
use seccompiler::{BpfProgram, SeccompCmpOp, SeccompRule};

/// System calls refused with any arguments, beyond those that any VMM is refused.
const REFUSED: [i64; 6] = [
    // QEMU signals its own threads by tgkill.
    libc::SYS_tkill,
    // Sockets: it inherits all that it needs.
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// Builds the filter. Allows opening files for reading; for reading and writing only in the way
/// that QEMU opens its guest's RAM, if it `has_ram_file`, and /dev/kvm, if it `has_kvm`.
pub(super) fn filter(
    has_ram_file: bool,
    has_kvm: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = refused_calls::rules()?;
    rules.extend(REFUSED.map(|call| (call, Vec::new())));
    for (call, flags_at) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
        rules.insert(call, written(flags_at, has_ram_file, has_kvm)?);
    }
    refused_calls::filter(rules)
}

/// Builds the conditions of opens that write or create a file.
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
