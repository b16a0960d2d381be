//! Landlock, which restricts a program's access to files.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;

use crate::sys::raw::last_errno;

/// Calls landlock_restrict_self(2); the crate's own function may allocate.
pub(super) fn restrict(ruleset: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Returns the kernel's version of Landlock (landlock_create_ruleset(2)); 0 if it is missing or
/// switched off.
pub fn landlock_version() -> i64 {
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: without attributes no memory is touched.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) }.max(0)
}
