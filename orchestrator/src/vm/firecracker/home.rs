//! The directory that a Firecracker process lives in, and the directory of those.
//!
//! ```text
//! <run directory>/<owner>/          locked while its process lives; swept by the next one
//!                        <vm>/api.sock, vsock.sock
//!                        firecracker/<owner>-<vm>/root/…    the same in a jail
//!                .claims/<name>    locked while a VM has that user id or tap device
//! ```
//!
//! A process has its own directory as working directory and knows its sockets by their bare
//! names; a jailed one has it as root directory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use super::cgroup::Cgroups;
use super::claim::CLAIMS;
use super::jail::{self, Jailer, User};
use super::place::Place;
use crate::vm::vmm::VmmError;

/// The directory of one owner's VMs. Removed when the last user of it is gone.
#[derive(Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
    name: String,
    next: AtomicU64,
    /// Keeps others from sweeping it.
    _lock: File,
}

impl RunDirectory {
    /// Makes a directory for this process below `root`, and removes those of dead ones.
    pub(super) fn create(root: &Path) -> Result<Arc<Self>, VmmError> {
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

    /// A directory for one more VM.
    pub(super) fn home(self: &Arc<Self>) -> io::Result<Home> {
        let path = self.path.join(self.number().to_string());
        make(&path, false)?;
        Ok(Home {
            place: Place::open(&path, None)?,
            path,
            jail: None,
            _run: Arc::clone(self),
        })
    }

    /// A jail for one more VM, which `firecracker` will run in.
    pub(super) fn jail(
        self: &Arc<Self>,
        jailer: &Arc<Jailer>,
        firecracker: &Path,
    ) -> io::Result<Home> {
        // Control groups are named by it, so it is unique on the host.
        let id = format!("{}-{}", self.name, self.number());
        let root = self.path.parent().unwrap_or(&self.path);
        let user = jailer.user(root)?;
        let (path, root) = jail::root(&self.path, firecracker, &id)?;
        Ok(Home {
            place: Place::open(&root, Some(jailer.group()))?,
            path,
            jail: Some(Jail {
                id,
                user,
                jailer: Arc::clone(jailer),
            }),
            _run: Arc::clone(self),
        })
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a run directory stays until the next start");
        }
    }
}

fn make(path: &Path, recursive: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
}

/// Removes the directories whose owners are gone.
fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == CLAIMS) {
            continue;
        }
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            if let Some(cgroups) = Cgroups::find() {
                jail::ids(&path)?.iter().for_each(|id| cgroups.remove(id));
            }
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => tracing::debug!(path = %path.display(), "swept the VMs of a dead process"),
            }
        }
    }
    Ok(())
}

/// The directory of one VM. Removed on drop, which must come after the process's end.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    place: Place,
    jail: Option<Jail>,
    _run: Arc<RunDirectory>,
}

/// What a jailed VM takes of the host beside its directory.
#[derive(Debug)]
pub(super) struct Jail {
    pub(super) id: String,
    pub(super) user: User,
    jailer: Arc<Jailer>,
}

impl Home {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn jailed(&self) -> Option<&Jail> {
        self.jail.as_ref()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a VM's directory stays until the next start");
        }
        if let Some(Jail { id, jailer, .. }) = &self.jail
            && let Some(cgroups) = jailer.cgroups()
        {
            cgroups.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(path: &Path) -> Vec<String> {
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn homes_are_private_and_go_with_their_vm_and_the_rest_with_the_last_of_them() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(root.path()).unwrap();
        let (one, two) = (run.home().unwrap(), run.home().unwrap());
        for home in [&one, &two] {
            let mode = fs::metadata(home.place().path())
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        let gone = one.place().path().to_owned();
        fs::write(gone.join("left"), "over").unwrap();
        drop(one);
        assert!(!gone.exists());
        drop(run);
        assert_eq!(names(root.path()).len(), 1, "a VM lives in it");
        drop(two);
        assert!(names(root.path()).is_empty());
    }

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
}
