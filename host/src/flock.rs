//! Locks on files and directories, by `flock`: they end with the process that holds them.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Which others may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any number of shared ones.
    Shared,
    /// None.
    Exclusive,
}

/// Locks an open file, or changes its lock, unless somebody else has one that conflicts; whether
/// it did.
pub fn try_lock(file: &File, kind: Kind) -> io::Result<bool> {
    let operation = match kind {
        Kind::Shared => FlockOperation::NonBlockingLockShared,
        Kind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Locks an open file for this process alone, as soon as nobody else has a lock of it, but waits no
/// longer than `patience`; whether it did. `waits` is told before each pause how long it has been.
pub fn lock_within(
    patience: Duration,
    file: &File,
    mut waits: impl FnMut(Duration),
) -> io::Result<bool> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if try_lock(file, Kind::Exclusive)? {
            return Ok(true);
        }
        let waited = start.elapsed();
        if waited >= patience {
            return Ok(false);
        }
        waits(waited);
        // `flock` can wait, but without a limit; a limit costs a retry now and then.
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// An open file that was locked; unlocked on drop.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Of a file that is locked.
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing would do, were there not the moment between fork and exec in which a child of
        // this process has the descriptor, too.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock a file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_over_on_drop_though_a_child_has_its_descriptor_still() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let lock = open();
        assert!(try_lock(&lock, Kind::Exclusive).unwrap());
        let inherited = lock.try_clone().unwrap();
        let lock = Locked::new(lock);
        assert!(!try_lock(&open(), Kind::Shared).unwrap());
        drop(lock);
        assert!(try_lock(&open(), Kind::Shared).unwrap());
        drop(inherited);
    }

    #[test]
    fn a_lock_that_is_given_back_meanwhile_is_taken_and_one_that_is_not_is_given_up() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (holder, waiter) = (file.reopen().unwrap(), file.reopen().unwrap());
        assert!(try_lock(&holder, Kind::Shared).unwrap());
        let mut pauses = 0;
        let patience = Duration::from_millis(1);
        assert!(!lock_within(patience, &waiter, |_| pauses += 1).unwrap());
        assert!(pauses > 0, "it did not wait");
        let mut holder = Some(Locked::new(holder));
        let taken = lock_within(Duration::MAX, &waiter, |_| drop(holder.take()));
        assert!(taken.unwrap());
    }
}
