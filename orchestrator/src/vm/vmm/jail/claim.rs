//! Claims exclusive resources of the host for a VM, by a locked file each.
//!
//! User ids and tap devices are shared by all services of the host, whatever their run paths: so
//! root's locks are in one place that nobody else can open. Another user's locks are beside its
//! VMs.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::state_path::{self, PathError};
use crate::vm::flock::{Kind, Locked, try_lock};
use crate::vm::host_limits;

/// The directory of locks below the run path of a user other than root.
pub(in crate::vm) const CLAIMS: &str = ".claims";
/// The directory of root's locks.
const HOST_CLAIMS: &str = "/run/ironclaw/claims";

/// A claim; ends on drop, or with the process.
#[derive(Debug)]
pub(in crate::vm) struct Claim(#[expect(dead_code, reason = "its end is what counts")] Locked);

/// Returns the directory of the locks, for VMs below `run_path`.
pub(in crate::vm) fn directory(run_path: &Path) -> io::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        let found = state_path::make(Path::new(HOST_CLAIMS)).map_err(|error| match error {
            PathError::Io(error) => io::Error::new(
                error.kind(),
                format!(
                    "{HOST_CLAIMS}, where user ids and tap devices are claimed: {}",
                    host_limits::text(&error)
                ),
            ),
            PathError::Exposed(exposed) => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{HOST_CLAIMS} {exposed}"),
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
    /// Claims `name` in a [`directory`] of locks; `None` if another VM of any process has it.
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
        // A name used by this test alone.
        let name = format!("test-{}", std::process::id());
        let claim = Claim::take(&one, &name).unwrap().unwrap();
        assert!(Claim::take(&two, &name).unwrap().is_none());
        drop(claim);
        assert!(Claim::take(&two, &name).unwrap().is_some());
        std::fs::remove_file(one.join(name)).unwrap();
    }
}
