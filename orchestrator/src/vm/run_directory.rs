//! The directory of one owner's VMs, and the directory of those.
//!
//! ```text
//! <run directory>/<owner>/          locked while its process lives; swept by the next one
//!                        .vmm-<pid>-… the record of a living VMM
//!                        …            what the hypervisor has there
//!                .claims/<name>    locked while a VM has that user id or tap device
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::vm::firecracker;
use crate::vm::orphan::{self, Record};
use crate::vm::vmm::VmmError;

/// The directory of one owner's VMs. Removed when the last user of it is gone.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    name: String,
    next: AtomicU64,
    /// Keeps others from sweeping it.
    _lock: File,
}

/// The record of a living VMM, and the directory that it is in.
#[derive(Debug)]
pub(crate) struct Recorded {
    // Goes before the directory.
    _record: Option<Record>,
    _run: Arc<RunDirectory>,
}

impl RunDirectory {
    /// Makes a directory for this process below `root`, and removes those of dead ones, with the
    /// VMMs that should have died with them.
    pub(crate) fn create(root: &Path) -> Result<Arc<Self>, VmmError> {
        let failed = |operation: &str, path: &Path| {
            VmmError::io(format!("{operation} the directory {}", path.display()))
        };
        make(root, true).map_err(failed("create", root))?;
        let root_lock = File::open(root).map_err(failed("open", root))?;
        // Held for a few system calls: nobody sees a directory before it is locked.
        flock(&root_lock, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(failed("lock", root))?;
        sweep(root).map_err(failed("clean", root))?;
        let name = Uuid::now_v7().simple().to_string();
        let path = root.join(&name);
        make(&path, false).map_err(failed("create", &path))?;
        let lock = File::open(&path).map_err(failed("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(failed("lock", &path))?;
        Ok(Arc::new(Self {
            path,
            name,
            next: AtomicU64::new(0),
            _lock: lock,
        }))
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that all owners' directories are in.
    pub(crate) fn root(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Its name, unique on the host.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A number for one more VM.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records that the VMM `pid` lives, until that is dropped. On a full disk there is no record:
    /// it is for the rare VMM that does not die with its owner by itself.
    pub(crate) fn record(self: Arc<Self>, pid: u32) -> io::Result<Recorded> {
        let record = match Record::create(&self.path, pid) {
            Ok(record) => Some(record),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) =>
            {
                tracing::warn!(pid, path = %self.path.display(), %error, "a VMM is not recorded");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Recorded {
            _record: record,
            _run: self,
        })
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a run directory stays until the next start");
        }
    }
}

/// Makes a directory for us alone.
pub(crate) fn make(path: &Path, recursive: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
}

/// Removes the directories whose owners are gone.
fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let path = entry.path();
        // The claims.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match remove(&path) {
                Ok(()) => {
                    tracing::debug!(path = %path.display(), "swept the VMs of a dead process")
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    tracing::warn!(path = %path.display(), %error, "left for the next start");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Processes first: what they use can't be removed, or would be missed by nobody.
fn remove(owner: &Path) -> io::Result<()> {
    orphan::end_all(owner)?;
    firecracker::remove_groups(owner)?;
    fs::remove_dir_all(owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    #[test]
    fn only_what_a_dead_process_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let living = RunDirectory::create(root.path()).unwrap();
        let dead = root.path().join("dead");
        fs::create_dir_all(dead.join("0")).unwrap();
        fs::write(dead.join("0/api.sock"), "").unwrap();
        let _next = RunDirectory::create(root.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path.exists());
    }

    #[test]
    fn vmms_of_a_dead_owner_are_ended_and_those_of_a_living_one_go_on() {
        let root = tempfile::tempdir().unwrap();
        let vmm = || {
            let mut command = Command::new("/bin/cat");
            command.stdin(Stdio::piped()).spawn().unwrap()
        };
        let living = RunDirectory::create(root.path()).unwrap();
        let (mut goes_on, mut orphan) = (vmm(), vmm());
        let _recorded = Arc::clone(&living).record(goes_on.id()).unwrap();
        let dead = root.path().join("dead");
        fs::create_dir(&dead).unwrap();
        let left = Record::create(&dead, orphan.id()).unwrap();

        let _next = RunDirectory::create(root.path()).unwrap();
        assert_eq!(orphan.wait().unwrap().signal(), Some(9));
        assert!(!dead.exists());
        drop(left);
        drop(goes_on.stdin.take());
        assert!(goes_on.wait().unwrap().success());
    }
}
