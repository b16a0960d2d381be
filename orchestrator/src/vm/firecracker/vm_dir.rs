//! The directory of a Firecracker process, below that of its owner, and its teardown.
//!
//! ```text
//! <run directory>/<owner>/<vm>/api.sock, vsock.sock; if it sees nothing else, log and written/
//!                        start-firecracker/<owner>-<vm>/root/…    the same in a jail, and Firecracker
//! ```
//!
//! The directory is the process's working directory, or its root directory in a jail, so that it
//! knows its sockets by their bare names.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::binary::PROGRAM;
use super::cells::Cell;
use super::chroot::{Chroot, LOG, Sees, WRITTEN};
use super::jail::{self, Jail, Jailer};
use crate::vm::tree;
use crate::vm::vmm::run_directory::{self, RunDirectory};

/// A process's own standard error, where it sees the host's files: a pipe in its directory would be one
/// more inode to be made and removed.
const STANDARD_ERROR: &str = "/proc/self/fd/2";

/// The directory of one VM, with its jail. Drop is the teardown: it removes the directory and leaves the
/// cell to the next VM, so the process must have ended.
#[derive(Debug)]
pub(super) struct VmDir {
    path: PathBuf,
    chroot: Chroot,
    jail: Option<Jail>,
    run: Arc<RunDirectory>,
}

impl VmDir {
    /// Creates the directory of one more VM, which sees the host's files or that directory alone.
    pub(super) fn new(run: &Arc<RunDirectory>, sees: Sees) -> io::Result<Self> {
        let path = run.path().join(run.number().to_string());
        run_directory::make(&path)?;
        let written = path.join(WRITTEN);
        if sees == Sees::Directory {
            run_directory::make(&written).inspect_err(|_| take_back(&[&path]))?;
        }
        let chroot = Chroot::open(&path, sees).inspect_err(|_| {
            if sees == Sees::Directory {
                take_back(&[&written]);
            }
            take_back(&[&path]);
        })?;
        Ok(Self {
            chroot,
            path,
            jail: None,
            run: Arc::clone(run),
        })
    }

    /// Creates the jail of one more VM, in a cell.
    pub(super) fn in_jail(
        run: &Arc<RunDirectory>,
        jailer: &Jailer,
        cell: Cell,
    ) -> io::Result<Self> {
        // Unique on the host, as the jailer's documents ask for.
        let id = format!("{}-{}", run.name(), run.number());
        let user = jailer.user(run.root())?;
        let (path, root) = jail::root(run.path(), &id)?;
        let chroot = Chroot::open(
            &root,
            Sees::Jail {
                user: user.id(),
                group: jailer.group(),
            },
        );
        let chroot = chroot.inspect_err(|_| take_back(&[&root, &path]))?;
        if let Err(error) = chroot.link(cell.program(), PROGRAM) {
            take_back(&[&root, &path]);
            cell.discard();
            return Err(error);
        }
        Ok(Self {
            chroot,
            path,
            jail: Some(Jail { id, user, cell }),
            run: Arc::clone(run),
        })
    }

    /// Returns the run directory that it is in.
    pub(super) fn run(&self) -> &Arc<RunDirectory> {
        &self.run
    }

    pub(super) fn chroot(&self) -> &Chroot {
        &self.chroot
    }

    /// Returns the path by which the process opens its log and, if that is not its standard error, the
    /// reading end of the pipe there.
    pub(super) fn log(&self) -> io::Result<(&'static str, Option<OwnedFd>)> {
        if self.chroot.sees() == Sees::Host {
            return Ok((STANDARD_ERROR, None));
        }
        Ok((LOG, Some(self.chroot.pipe(LOG)?)))
    }

    pub(super) fn jailed(&self) -> Option<&Jail> {
        self.jail.as_ref()
    }
}

/// Removes directories that were just created. Uses no descriptors: a lack of them may be the
/// reason.
fn take_back(directories: &[&Path]) {
    for directory in directories {
        if let Err(error) = fs::remove_dir(directory) {
            stays(directory, &error);
        }
    }
}

fn stays(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "a VM's directory stays until the next start");
}

impl Drop for VmDir {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.path) {
            stays(&self.path, &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::vmm::run_directory::RunPath;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(path: &Path) -> Vec<String> {
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn vm_directories_are_private_and_teardown_removes_them() {
        let root = tempfile::tempdir().unwrap();
        let run = RunPath::open(root.path()).unwrap().directory().unwrap();
        let (one, two) = (
            VmDir::new(&run, Sees::Host).unwrap(),
            VmDir::new(&run, Sees::Host).unwrap(),
        );
        for dir in [&one, &two] {
            let mode = fs::metadata(dir.chroot().path())
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        let gone = one.chroot().path().to_owned();
        fs::write(gone.join("left"), "over").unwrap();
        drop(one);
        assert!(!gone.exists());
        drop(run);
        assert_eq!(names(root.path()).len(), 1, "a VM lives in it");
        drop(two);
        assert!(names(root.path()).is_empty());
    }

    /// Set where the test runs in a process of its own.
    const ALONE: &str = "IRONCLAW_TEST_ALONE";

    #[test]
    fn a_directory_that_can_not_be_opened_is_removed_again() {
        use rustix::process::{Resource, getrlimit, setrlimit};
        if std::env::var_os(ALONE).is_none() {
            let name = "vm::firecracker::vm_dir::tests::a_directory_that_can_not_be_opened_is_removed_again";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", name]).env(ALONE, "1").output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let run = RunPath::open(root.path()).unwrap().directory().unwrap();
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(64);
        setrlimit(Resource::Nofile, limit).unwrap();
        let descriptors: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        let dir = VmDir::new(&run, Sees::Host);
        drop(descriptors);
        assert!(dir.is_err());
        let left = names(run.path());
        assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
    }
}
