//! Recognizes full disks, and directories that are on none.

use std::io::{self, Error, ErrorKind};
use std::path::Path;

/// The types of file systems whose files are in memory (`statfs(2)`): tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Returns whether the files of a directory are in memory: its pages count as memory of the control group of
/// the process that writes them.
///
/// # Errors
/// If the directory can't be looked at.
pub fn is_in_memory(directory: &Path) -> io::Result<bool> {
    Ok(IN_MEMORY.contains(&rustix::fs::statfs(directory)?.f_type))
}

/// Returns whether `error` means that there is no space left, or none for this user (quota).
pub fn is_full(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_tmpfs_are_in_memory_and_those_of_the_kernel_are_not() {
        assert!(is_in_memory(Path::new("/dev/shm")).unwrap());
        assert!(!is_in_memory(Path::new("/proc")).unwrap());
        assert!(is_in_memory(Path::new("/nonexistent")).is_err());
    }
}
