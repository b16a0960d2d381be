//! What a VM has alone of a few that this host has: a file of that name, locked for as long.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::vm::flock::{Kind, Locked, try_lock};
use crate::vm::run_directory::CLAIMS;

/// Ends when it is dropped, or its process ends.
#[derive(Debug)]
pub(super) struct Claim(#[expect(dead_code, reason = "its end is what counts")] Locked);

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
        let taken = try_lock(&lock, Kind::Exclusive)?;
        Ok(taken.then(|| Self(Locked::new(lock))))
    }
}
