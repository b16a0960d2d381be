//! Advisory locks on files and directories (`flock`), released when the process that holds them
//! ends.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The kind of a lock: what other locks may exist beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Other shared locks may be held at the same time.
    Shared,
    /// No other lock may be held at the same time.
    Exclusive,
}

/// Locks an open file, or converts its lock. Returns `false`, without waiting, if somebody else
/// holds a conflicting lock.
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

/// Takes an exclusive lock on an open file as soon as nobody else holds one, and waits for that no
/// longer than `patience`. Returns whether it got the lock. Calls `waits` before each pause with
/// the time waited so far.
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
        // A blocking `flock` has no timeout: polling is the price of one.
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// An open file with a lock on it, which is released on drop.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Wraps a file that is locked already.
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing is not enough: between fork and exec, a child of this process has a copy of the
        // descriptor, and the lock lives as long as any copy.
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
