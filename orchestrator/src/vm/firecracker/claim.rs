//! What a VM has alone of a few that this host has: a file of that name, locked for as long.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The directory of the locks, beside those of the owners.
const CLAIMS: &str = ".claims";

/// Ends when it is dropped, or its process ends.
#[derive(Debug)]
pub(super) struct Claim(File);

impl Claim {
    /// The claim to `name`, unless another VM has it, of whatever process with this `run_path`.
    pub(super) fn take(run_path: &Path, name: &str) -> io::Result<Option<Self>> {
        let locks = run_path.join(CLAIMS);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&locks)?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(locks.join(name))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(lock))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing it is not enough: a process that another thread starts just now has it open too,
        // until it becomes another program.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
