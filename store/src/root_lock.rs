//! The lock of a directory that any number of processes work in: held for a few system calls, and
//! waited for with a timeout.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use ironclaw_host::flock::{Locked, lock_within};

use crate::owner::Owners;

/// The timeout.
pub const ROOT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which the log tells who holds the lock.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// The lock; released on drop.
#[derive(Debug)]
pub struct RootLock(#[expect(dead_code, reason = "its end is what counts")] Locked);

/// The reason why the lock could not be taken.
#[derive(Debug)]
pub enum RootLockError {
    /// These processes held it for all of [`ROOT_LOCK_TIMEOUT`].
    Busy(Owners),
    /// A system call failed.
    Io(io::Error),
}

impl RootLock {
    /// Locks `directory`, which is at `path`.
    ///
    /// # Errors
    /// [`RootLockError`]
    pub fn take(directory: File, path: &Path) -> Result<Self, RootLockError> {
        Self::take_within(ROOT_LOCK_TIMEOUT, directory, path)
    }

    fn take_within(
        patience: Duration,
        directory: File,
        path: &Path,
    ) -> Result<Self, RootLockError> {
        let mut silent = true;
        let waits = |waited| {
            if silent && waited > REPORT_AFTER {
                silent = false;
                let (path, owners) = (path.display(), Owners::find(&directory));
                tracing::warn!("waiting for {owners} with the lock of {path}");
            }
        };
        if lock_within(patience, &directory, waits).map_err(RootLockError::Io)? {
            Ok(Self(Locked::new(directory)))
        } else {
            Err(RootLockError::Busy(Owners::find(&directory)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_locked_is_given_up_and_who_has_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap();
        let lock = RootLock::take(open(), directory.path()).unwrap();
        let denied = RootLock::take_within(Duration::ZERO, open(), directory.path());
        let Err(RootLockError::Busy(Owners(owners))) = denied else {
            panic!("{denied:?}");
        };
        assert_eq!(owners[0].pid, std::process::id());
        drop(lock);
        RootLock::take_within(Duration::ZERO, open(), directory.path()).unwrap();
    }
}
