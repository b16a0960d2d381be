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
use crate::vm::root_lock::{self, RootLock, RootLockError};
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
        // Held for a few system calls: nobody sees a directory before it is locked.
        let root_lock = lock(root)?;
        let dead = dead_owners(root).map_err(failed("list", root))?;
        let name = Uuid::now_v7().simple().to_string();
        let path = root.join(&name);
        make(&path, false).map_err(failed("create", &path))?;
        let lock = File::open(&path).map_err(failed("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(failed("lock", &path))?;
        drop(root_lock);
        // Ending VMMs may take its time, and is nobody else's business.
        dead.into_iter().for_each(DeadOwner::remove);
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

fn lock(root: &Path) -> Result<RootLock, VmmError> {
    let failed = || VmmError::io(format!("lock the directory {}", root.display()));
    let directory = File::open(root).map_err(failed())?;
    RootLock::take(directory, root).map_err(|error| match error {
        RootLockError::Io(error) => failed()(error),
        RootLockError::Busy(owners) => {
            let text = format!(
                "{owners} has had it for {:?}, so it hangs or is stopped: continue or end it, then \
                 try again",
                root_lock::PATIENCE
            );
            failed()(io::Error::new(ErrorKind::TimedOut, text))
        }
    })
}

/// What a process left that is gone; locked, so that one alone removes it.
struct DeadOwner {
    path: PathBuf,
    _lock: File,
}

/// Those of `root`, which is locked. One that can't be looked at stays.
fn dead_owners(root: &Path) -> io::Result<Vec<DeadOwner>> {
    let mut dead = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let path = entry.path();
        // The claims.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match File::open(&path) {
            Ok(lock) => {
                if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    dead.push(DeadOwner { path, _lock: lock });
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => stays(&path, &error),
        }
    }
    Ok(dead)
}

impl DeadOwner {
    /// What can't be removed keeps nobody from starting.
    fn remove(self) {
        match self.try_remove() {
            Ok(()) => tracing::debug!(path = %self.path.display(), "swept a dead process's VMs"),
            // Another process, or its own owner in its last moment.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => stays(&self.path, &error),
        }
    }

    /// Processes first: what they use can't be removed, or would be missed by nobody.
    fn try_remove(&self) -> io::Result<()> {
        orphan::end_all(&self.path)?;
        firecracker::remove_groups(&self.path)?;
        fs::remove_dir_all(&self.path)
    }
}

fn stays(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "what a dead process left stays until the next start");
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
    fn what_can_not_be_swept_keeps_nobody_from_starting() {
        let root = tempfile::tempdir().unwrap();
        let stray = root.path().join("stray");
        fs::write(&stray, "").unwrap();
        let dead = root.path().join("dead");
        fs::create_dir(&dead).unwrap();
        let _next = RunDirectory::create(root.path()).unwrap();
        assert!(stray.exists() && !dead.exists());
    }

    #[test]
    fn a_dead_owners_directory_that_another_sweeps_is_left_to_it_without_waiting() {
        let root = tempfile::tempdir().unwrap();
        let dead = root.path().join("dead");
        fs::create_dir(&dead).unwrap();
        let swept = dead_owners(root.path()).unwrap();
        let _next = RunDirectory::create(root.path()).unwrap();
        assert!(dead.exists());
        swept.into_iter().for_each(DeadOwner::remove);
        assert!(!dead.exists());
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
