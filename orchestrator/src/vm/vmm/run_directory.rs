//! The run directory: a directory of VMs for each owner.
//!
//! ```text
//! <run directory>/<owner>/          locked while its process lives; swept by the next one
//!                        .ironclaw    the mark that it is ours
//!                        .owner-<pid>-… whose it is
//!                        .vmm-<pid>-… the record of a living VMM
//!                        …            what the hypervisor has there
//!                .claims/<name>    locked while a VM has that user id or tap device
//! ```

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::disk;
use crate::mark::{self, Mark};
use crate::state_path::{self, PathError, StatePath};
use crate::vm::flock::{Kind, lock_within, try_lock};
use crate::vm::tree;
use crate::vm::vmm::VmmError;
use crate::vm::vmm::jail;
use crate::vm::vmm::jail::claim::CLAIMS;
use crate::vm::vmm::orphan::{self, Record};
use crate::vm::vmm::rundown::Rundown;
use ironclaw_store::{ROOT_LOCK_TIMEOUT, RootLock, RootLockError};

/// The place of this process's VMs. The owner's directory is created with the first VM: read-only
/// commands like `ironclaw doctor` change nothing.
#[derive(Debug)]
pub(crate) struct RunPath {
    root: PathBuf,
    directory: Mutex<Option<Arc<RunDirectory>>>,
    rundown: Rundown,
}

/// Checks that VMs can be below `path` ([`RUN_PATH`](crate::vm::config::RUN_PATH)), as far as
/// possible without changing anything.
///
/// # Errors
/// [`VmmError::Unusable`] with the obstacle.
pub fn check_run_path(path: &Path) -> Result<(), VmmError> {
    RunPath::open(path).map(drop)
}

/// The directory of one owner's VMs. Removed when its last user is gone.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    name: String,
    next: AtomicU64,
    rundown: Rundown,
    /// The record of its owner, unless the disk was full.
    owner: Option<PathBuf>,
    /// Keeps others from sweeping it.
    _lock: File,
}

/// The record of a living VMM, with the directory that it is in.
#[derive(Debug)]
pub(crate) struct Recorded {
    // Declared first: dropped before the directory.
    _record: Option<Record>,
    _run: Arc<RunDirectory>,
}

impl RunPath {
    /// Uses the directory `root`, which need not exist yet.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if it exists and can't be used.
    pub(crate) fn open(root: &Path) -> Result<Self, VmmError> {
        let root = match state_path::find(root) {
            Err(PathError::Io(error)) if error.kind() == ErrorKind::NotFound => root.to_owned(),
            found => {
                let root = own(root, found)?;
                owners(&root)?;
                root
            }
        };
        Ok(Self {
            root,
            directory: Mutex::default(),
            rundown: Rundown::default(),
        })
    }

    /// Returns the same place for VMs that end in this rundown.
    pub(crate) fn ending_in(&self, rundown: &Rundown) -> Self {
        Self {
            root: self.root.clone(),
            directory: Mutex::default(),
            rundown: rundown.clone(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the rundown of its VMs.
    pub(crate) fn rundown(&self) -> &Rundown {
        &self.rundown
    }

    /// Returns the directory of this process's VMs; the first call creates it.
    pub(crate) fn directory(&self) -> Result<Arc<RunDirectory>, VmmError> {
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = &*directory {
            return Ok(Arc::clone(directory));
        }
        let made = RunDirectory::create(&self.root, self.rundown.clone())?;
        *directory = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Creates that directory, and sweeps those of dead processes with the VMMs that outlived them.
    /// For callers that are about to create VMs.
    pub(crate) fn prepare(&self) -> Result<(), VmmError> {
        self.directory()?;
        sweep(&self.root)
    }
}

impl RunDirectory {
    /// Creates a directory for this process below `root`.
    fn create(root: &Path, rundown: Rundown) -> Result<Arc<Self>, VmmError> {
        let root = &own(root, state_path::make(root))?;
        // Held for a few system calls, so that nobody sees a directory before it is locked.
        let _root_lock = lock(root)?;
        owners(root)?;
        let name = Uuid::now_v7().simple().to_string();
        let path = root.join(&name);
        make(&path).map_err(failed("create", &path))?;
        let filled = fill(&path).map_err(failed("write to", &path));
        let (lock, owner) = filled.inspect_err(|_| {
            if let Err(error) = mark::remove(&path) {
                stays(&path, &error);
            }
        })?;
        Ok(Arc::new(Self {
            path,
            name,
            next: AtomicU64::new(0),
            rundown,
            owner,
            _lock: lock,
        }))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path that all owners' directories are in.
    pub(crate) fn root(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Returns the rundown of the VMs in it.
    pub(crate) fn rundown(&self) -> &Rundown {
        &self.rundown
    }

    /// Returns its name, which is unique on the host.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns a number for one more VM.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records that the VMM `pid` lives, until the record is dropped. Goes without on a full disk:
    /// the record is only needed for the rare VMM that outlives its owner.
    pub(crate) fn record(self: Arc<Self>, pid: u32) -> io::Result<Recorded> {
        let record = unless_full(Record::create(&self.path, self.owner.as_deref(), pid))?;
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

/// Locks a new directory, marks it, and records its owner.
fn fill(path: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let directory = mark::open(path)?;
    if !try_lock(&directory, Kind::Exclusive)? {
        return Err(ErrorKind::WouldBlock.into());
    }
    mark::create(&directory)?;
    let owner = unless_full(orphan::record_owner(path, std::process::id()))?;
    Ok((directory, owner))
}

/// Turns a record that failed for lack of disk space into none.
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

/// Creates a directory with mode 0700.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn unusable(root: &Path, what: String) -> VmmError {
    VmmError::Unusable {
        program: "the directory of running VMs",
        path: root.to_owned(),
        reason: what + " `run_path` to a directory of its own",
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
                ROOT_LOCK_TIMEOUT
            );
            failed()(io::Error::new(ErrorKind::TimedOut, text))
        }
    })
}

/// Resolves the links of the directory at `root`. Refuses a directory that others can change: they
/// would choose what a VMM finds in place of its sockets and its record. Refuses root's for other
/// users.
fn own(root: &Path, found: Result<StatePath, PathError>) -> Result<PathBuf, VmmError> {
    match found {
        Ok(found) if found.owner == rustix::process::geteuid().as_raw() => Ok(found.path),
        Ok(_) => Err(unusable(root, "it belongs to root: set".to_owned())),
        Err(PathError::Exposed(exposed)) => {
            let root = exposed.directory(root);
            Err(unusable(&root, format!("it {exposed}, or set")))
        }
        Err(PathError::Io(error)) if disk::is_full(&error) => Err(failed("create", root)(error)),
        Err(PathError::Io(error)) => {
            let what = format!("it can't be made or entered ({error}): set");
            Err(unusable(root, what))
        }
    }
}

fn failed(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> VmmError + use<> {
    VmmError::io(format!("{operation} the directory {}", path.display()))
}

/// A directory of an owner, living or dead.
struct Owner {
    path: PathBuf,
    directory: File,
    mark: Mark,
}

/// Lists the owners' directories in `root`.
///
/// # Errors
/// [`VmmError::Unusable`] if there is anything else: foreign entries must not be mixed with what
/// comes and goes here.
fn owners(root: &Path) -> Result<Vec<Owner>, VmmError> {
    let mut owners = Vec::new();
    for entry in fs::read_dir(root).map_err(failed("list", root))? {
        let name = entry.map_err(failed("list", root))?.file_name();
        if is_of_the_root(&name) {
            continue;
        }
        let path = root.join(&name);
        match owner(&path) {
            Ok(Some(owner)) => owners.push(owner),
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(None) => {
                let what = format!(
                    "it holds {}, which is not IronClaw's: nothing else may be in it; set",
                    Path::new(&name).display()
                );
                return Err(unusable(root, what));
            }
            Err(error) => return Err(failed("look at", &path)(error)),
        }
    }
    Ok(owners)
}

/// Returns whether an entry may be in the root beside owners, and is never removed: the claims, and
/// what file systems create by themselves.
fn is_of_the_root(name: &OsStr) -> bool {
    name == CLAIMS || name == "lost+found" || name.as_encoded_bytes().starts_with(b".nfs")
}

/// Opens the owner's directory at `path`; `None` for anything else.
fn owner(path: &Path) -> io::Result<Option<Owner>> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let id = Uuid::try_parse(name).ok();
    if id.is_none_or(|id| id.simple().to_string() != name || id.get_version_num() != 7) {
        return Ok(None);
    }
    let directory = match mark::open(path) {
        // A link, or a file.
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Ok(None);
        }
        opened => opened?,
    };
    let mark = match mark::read(&directory)? {
        // The releases before the mark recorded the owner, too.
        Mark::Foreign if is_own(&directory)? && orphan::names_its_owner(path) => Mark::Ours,
        mark => mark,
    };
    let path = path.to_owned();
    Ok((mark != Mark::Foreign).then_some(Owner {
        path,
        directory,
        mark,
    }))
}

fn is_own(directory: &File) -> io::Result<bool> {
    Ok(directory.metadata()?.uid() == rustix::process::geteuid().as_raw())
}

/// Removes what dead processes left below `root`. Ending VMMs may take long, so the root is not
/// locked meanwhile.
fn sweep(root: &Path) -> Result<(), VmmError> {
    let dead = {
        let _root_lock = lock(root)?;
        dead_owners(root)?
    };
    dead.into_iter().for_each(DeadOwner::remove);
    Ok(())
}

/// The directory of a dead process.
struct DeadOwner {
    path: PathBuf,
    /// Locked, so that only one process removes it.
    directory: File,
}

/// Timeout of the lock of a dead process that its children still hold: a process killed while it
/// starts a program leaves a forked copy of itself, which ends before it executes that program.
const LOCK_RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds the directories of dead processes in `root`, which is locked.
fn dead_owners(root: &Path) -> Result<Vec<DeadOwner>, VmmError> {
    let mut dead = Vec::new();
    for Owner {
        path,
        directory,
        mark,
    } in owners(root)?
    {
        let is_free = try_lock(&directory, Kind::Exclusive).unwrap_or(false);
        if is_free && mark == Mark::Bare {
            if let Err(error) = mark::remove_bare(&path) {
                stays(&path, &error);
            }
        } else if is_free || orphan::owner_has_ended(&path) {
            dead.push(DeadOwner { path, directory });
        }
    }
    Ok(dead)
}

impl DeadOwner {
    /// Removes it. Errors are logged: they keep nobody from starting.
    fn remove(self) {
        match self.try_remove() {
            Ok(()) => tracing::debug!(path = %self.path.display(), "swept a dead process's VMs"),
            // Removed by another process, or by its own owner at its end.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => stays(&self.path, &error),
        }
    }

    /// Kills processes first: what they use can't be removed, and without their record nobody would
    /// find them.
    fn try_remove(&self) -> io::Result<()> {
        // In most cases the lock is free.
        if !lock_within(LOCK_RELEASE_TIMEOUT, &self.directory, |_| ())? {
            return Err(ErrorKind::WouldBlock.into());
        }
        orphan::end_all(&self.path)?;
        jail::remove_vms(&self.path)?;
        tree::remove(&self.path)
    }
}

fn stays(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "what a dead process left stays until the next start");
}

#[cfg(test)]
mod tests;
