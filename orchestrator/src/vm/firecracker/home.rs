//! The directory that a Firecracker process lives in, below that of its owner.
//!
//! ```text
//! <run directory>/<owner>/<vm>/api.sock, vsock.sock, log
//!                        firecracker/<owner>-<vm>/root/…    the same in a jail
//! ```
//!
//! A process has its own directory as working directory and knows its sockets by their bare
//! names; a jailed one has it as root directory.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::jail::{self, Jailer, User};
use super::place::Place;
use crate::vm::run_directory::{self, RunDirectory};
use crate::vm::tree;

/// The directory of one VM. Removed on drop, which must come after the process's end.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    place: Place,
    jail: Option<Jail>,
    run: Arc<RunDirectory>,
}

/// What a jailed VM takes of the host beside its directory.
#[derive(Debug)]
pub(super) struct Jail {
    pub(super) id: String,
    pub(super) user: User,
    jailer: Arc<Jailer>,
}

impl Home {
    /// A directory for one more VM.
    pub(super) fn new(run: &Arc<RunDirectory>) -> io::Result<Self> {
        let path = run.path().join(run.number().to_string());
        run_directory::make(&path)?;
        let place = Place::open(&path, None).inspect_err(|_| take_back(&[&path]))?;
        Ok(Self {
            place,
            path,
            jail: None,
            run: Arc::clone(run),
        })
    }

    /// A jail for one more VM, which `firecracker` will run in.
    pub(super) fn in_jail(
        run: &Arc<RunDirectory>,
        jailer: &Arc<Jailer>,
        firecracker: &Path,
    ) -> io::Result<Self> {
        // Control groups are named by it, so it is unique on the host.
        let id = format!("{}-{}", run.name(), run.number());
        let user = jailer.user(run.root())?;
        let (path, root) = jail::root(run.path(), firecracker, &id)?;
        let place = Place::open(&root, Some(jailer.group()));
        let place = place.inspect_err(|_| take_back(&[&root, &path]))?;
        Ok(Self {
            place,
            path,
            jail: Some(Jail {
                id,
                user,
                jailer: Arc::clone(jailer),
            }),
            run: Arc::clone(run),
        })
    }

    /// The directory that it is in.
    pub(super) fn run(&self) -> &Arc<RunDirectory> {
        &self.run
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Makes a pipe called `name` for the VM to write to; this is where that comes out.
    pub(super) fn pipe(&self, name: &str) -> io::Result<OwnedFd> {
        let user = self.jail.as_ref().map(|jail| jail.user.id());
        self.place.pipe(name, user)
    }

    pub(super) fn jailed(&self) -> Option<&Jail> {
        self.jail.as_ref()
    }
}

/// Removes directories that were just made. It takes no descriptor: that there is none left may be
/// why.
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

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.path) {
            stays(&self.path, &error);
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
    use crate::vm::run_directory::RunPath;
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
        let run = RunPath::open(root.path()).unwrap().directory().unwrap();
        let (one, two) = (Home::new(&run).unwrap(), Home::new(&run).unwrap());
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

    /// Tells the next test that it has a process of its own.
    const ALONE: &str = "IRONCLAW_TEST_ALONE";

    #[test]
    fn a_home_that_can_not_be_opened_is_not_left_behind() {
        use rustix::process::{Resource, getrlimit, setrlimit};
        if std::env::var_os(ALONE).is_none() {
            let name =
                "vm::firecracker::home::tests::a_home_that_can_not_be_opened_is_not_left_behind";
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
        let home = Home::new(&run);
        drop(descriptors);
        assert!(home.is_err());
        let left = names(run.path());
        assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
    }
}
