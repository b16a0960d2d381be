//! The directory of one owner's VMs, and the directory of those.
//!
//! ```text
//! <run directory>/<owner>/          locked while its process lives; swept by the next one
//!                        .owner-<pid>-… whose it is
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
use std::time::Duration;

use uuid::Uuid;

use crate::disk;
use crate::exposed::Exposed;
use crate::vm::firecracker;
use crate::vm::flock::{Kind, lock_within, try_lock};
use crate::vm::orphan::{self, Record};
use crate::vm::root_lock::{self, RootLock, RootLockError};
use crate::vm::tree;
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
        make(root, true).map_err(|error| {
            if disk::is_full(&error) {
                return failed("create", root)(error);
            }
            unusable(root, format!("it can't be made ({error}): set"))
        })?;
        // Who can change it chooses what a VMM finds in place of its sockets and its record.
        if let Some(exposed) = Exposed::of(root).map_err(failed("inspect", root))? {
            return Err(unusable(root, format!("it {exposed}, or set")));
        }
        // Held for a few system calls: nobody sees a directory before it is locked.
        let root_lock = lock(root)?;
        let dead = dead_owners(root).map_err(failed("list", root))?;
        let name = Uuid::now_v7().simple().to_string();
        let path = root.join(&name);
        make(&path, false).map_err(failed("create", &path))?;
        let lock = File::open(&path).map_err(failed("open", &path))?;
        try_lock(&lock, Kind::Exclusive)
            .and_then(|locked| locked.then_some(()).ok_or(ErrorKind::WouldBlock.into()))
            .map_err(failed("lock", &path))?;
        unless_full(orphan::record_owner(&path, std::process::id()))
            .map_err(failed("write to", &path))?;
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
        let record = unless_full(Record::create(&self.path, pid))?;
        Ok(Recorded {
            _record: record,
            _run: self,
        })
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a run directory stays until the next start");
        }
    }
}

/// A process that could not be recorded for lack of space is not.
fn unless_full<T>(recorded: io::Result<T>) -> io::Result<Option<T>> {
    match recorded {
        Ok(record) => Ok(Some(record)),
        Err(error) if disk::is_full(&error) => {
            tracing::warn!(%error, "a process is not recorded");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Makes a directory for us alone.
pub(crate) fn make(path: &Path, recursive: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
}

fn unusable(root: &Path, what: String) -> VmmError {
    VmmError::Unusable {
        program: "the directory of running VMs",
        path: root.to_owned(),
        reason: what + " IRONCLAW_RUN_PATH to a directory of its own",
    }
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

/// What a process left that is gone.
struct DeadOwner {
    path: PathBuf,
    /// Locked, so that one alone removes it.
    directory: File,
}

/// How long a dead process's lock may stay with its children: one that was killed while it started
/// a program leaves a copy of itself, which ends before it becomes that program.
const LAST_MOMENT: Duration = Duration::from_secs(1);

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
            Ok(directory) => {
                let is_free = try_lock(&directory, Kind::Exclusive).unwrap_or(false);
                if is_free || orphan::owner_has_ended(&path) {
                    dead.push(DeadOwner { path, directory });
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
        // Most often it is locked at once.
        if !lock_within(LAST_MOMENT, &self.directory, |_| ())? {
            return Err(ErrorKind::WouldBlock.into());
        }
        orphan::end_all(&self.path)?;
        firecracker::remove_groups(&self.path)?;
        tree::remove(&self.path)
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
    fn a_directory_that_others_can_change_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let error = RunDirectory::create(root.path()).unwrap_err();
        let why = error.to_string();
        assert!(
            why.contains("1777") && why.contains("IRONCLAW_RUN_PATH"),
            "{why}"
        );
    }

    #[test]
    fn a_directory_that_can_not_be_made_is_named_with_its_setting() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = RunDirectory::create(file.path()).unwrap_err().to_string();
        assert!(
            error.contains(&file.path().display().to_string())
                && error.contains("IRONCLAW_RUN_PATH"),
            "{error}"
        );
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
    fn a_lock_that_a_dead_owners_child_has_for_a_moment_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = RunDirectory::create(root.path()).unwrap().path.clone();
        let mut owner = Command::new("/bin/cat");
        let mut owner = owner.stdin(Stdio::piped()).spawn().unwrap();
        fs::create_dir(&path).unwrap();
        orphan::record_owner(&path, owner.id()).unwrap();
        let inherited = File::open(&path).unwrap();
        assert!(try_lock(&inherited, Kind::Exclusive).unwrap());

        let living = RunDirectory::create(root.path()).unwrap();
        assert!(path.exists(), "its owner lives");
        owner.kill().unwrap();
        owner.wait().unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| RunDirectory::create(root.path()).unwrap());
            std::thread::sleep(Duration::from_millis(20));
            drop(inherited);
            drop(next.join().unwrap());
        });
        assert!(!path.exists());
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
