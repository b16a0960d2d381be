//! What a VM has alone of a few that this host has: a file of that name, locked for as long.
//!
//! User ids and tap devices are the host's, whatever the run path of a service: so root's locks are
//! in one place, which nobody else can open. Another user's are beside its VMs.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::state_path::{self, PathError};
use crate::vm::flock::{Kind, Locked, try_lock};
use crate::vm::host_limits;

/// Their directory below the run path of another user than root.
pub(in crate::vm) const CLAIMS: &str = ".claims";
/// Where root's locks are.
const OF_THE_HOST: &str = "/run/ironclaw/claims";

/// Ends when it is dropped, or its process ends.
#[derive(Debug)]
pub(in crate::vm) struct Claim(#[expect(dead_code, reason = "its end is what counts")] Locked);

/// The directory of the locks, for VMs below `run_path`.
pub(in crate::vm) fn directory(run_path: &Path) -> io::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        let found = state_path::make(Path::new(OF_THE_HOST)).map_err(|error| match error {
            PathError::Io(error) => io::Error::new(
                error.kind(),
                format!(
                    "{OF_THE_HOST}, where user ids and tap devices are claimed: {}",
                    host_limits::told(&error)
                ),
            ),
            PathError::Exposed(exposed) => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{OF_THE_HOST} {exposed}"),
            ),
        });
        return Ok(found?.path);
    }
    let directory = run_path.join(CLAIMS);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    Ok(directory)
}

impl Claim {
    /// The claim to `name` in a [`directory`] of locks, unless another VM has it, of whatever
    /// process.
    pub(in crate::vm) fn take(directory: &Path, name: &str) -> io::Result<Option<Self>> {
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(name))?;
        let taken = try_lock(&lock, Kind::Exclusive)?;
        Ok(taken.then(|| Self(Locked::new(lock))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_claimed_by_root_is_claimed_for_every_run_path() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [one, two] = [&one, &two].map(|run| directory(run.path()).unwrap());
        if !rustix::process::geteuid().is_root() {
            assert_ne!(one, two);
            return;
        }
        // Of this test alone.
        let name = format!("test-{}", std::process::id());
        let claim = Claim::take(&one, &name).unwrap().unwrap();
        assert!(Claim::take(&two, &name).unwrap().is_none());
        drop(claim);
        assert!(Claim::take(&two, &name).unwrap().is_some());
        std::fs::remove_file(one.join(name)).unwrap();
    }
}
