//! Results of system calls without a wrapper.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use rustix::io::Errno;

/// Returns the error number of the last system call.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Takes ownership of a descriptor that a system call has just returned.
pub(super) fn own(number: libc::c_long) -> Result<OwnedFd, Errno> {
    let number = i32::try_from(number).ok().filter(|number| *number >= 0);
    let number = number.ok_or_else(last_errno)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
