//! The lock of a directory that any number of processes work in, by `flock`: held for a few system
//! calls, and so waited for, but not for ever.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::vm::snapshot::Owners;

/// How long it is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// After so long, it is said who is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// The lock; released on drop.
#[derive(Debug)]
pub(crate) struct RootLock(File);

/// Why there is none.
#[derive(Debug)]
pub(crate) enum RootLockError {
    /// These processes had it for all of [`PATIENCE`].
    Busy(Owners),
    Io(io::Error),
}

impl RootLock {
    /// The lock of `directory`, which is at `path`.
    pub(crate) fn take(directory: File, path: &Path) -> Result<Self, RootLockError> {
        Self::take_within(PATIENCE, directory, path)
    }

    fn take_within(
        patience: Duration,
        directory: File,
        path: &Path,
    ) -> Result<Self, RootLockError> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut silent = true;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(directory)),
                Err(Errno::WOULDBLOCK) if start.elapsed() < patience => {
                    if silent && start.elapsed() > SILENCE {
                        silent = false;
                        let (path, owners) = (path.display(), Owners::of(&directory));
                        tracing::warn!("waiting for {owners} with the lock of {path}");
                    }
                    // `flock` can wait, but without a limit; a limit costs a retry now and then.
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => return Err(RootLockError::Busy(Owners::of(&directory))),
                Err(errno) => return Err(RootLockError::Io(errno.into())),
            }
        }
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        // Closing would do, were there not the moment between fork and exec in which a child of
        // this process has the descriptor, too.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock a directory");
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
