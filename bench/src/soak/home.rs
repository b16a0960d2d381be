//! The directory of a soak, beside the user's snapshots; removed at the end.
//!
//! ```text
//! <parent of the snapshots' directory>/.ironclaw-soak/   stays, empty
//!     <random>/                           locked while its owner lives
//!         .ironclaw                       the mark that it is a soak's, without which it stays
//!         state/{templates,snapshots,run} with faults and as root: a file system
//!         aside/                          what is moved out of or into a snapshot
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ironclaw_orchestrator::template::{Template, TemplateChoice};
use ironclaw_orchestrator::vm::Config;
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::geteuid;

/// The directory of all soaks: anything else beside the snapshots belongs to others.
const SOAKS: &str = ".ironclaw-soak";
/// The file that marks a soak's directory, which is created first and removed last, and its
/// content.
const MARK: &str = ".ironclaw";
const MARK_LINE: &str = "A soak of IronClaw made this directory, and removes it.\n";
/// Directories in a soak's directory.
const STATE: &str = "state";
const ASIDE: &str = "aside";
/// Bytes that a soak needs beyond snapshots: a template, sockets, logs.
const OVERHEAD_BYTES: u64 = 512 << 20;
/// Mount flags of its own file system. It allows device files: a jail has its own /dev/kvm.
const MOUNT_FLAGS: MountFlags = MountFlags::NOSUID;

/// The directories of a soak.
#[derive(Debug)]
pub(super) struct Home {
    disk: Option<Disk>,
    state: PathBuf,
    directory: Directory,
    // Declared last, so dropped last: others sweep what is not locked.
    _lock: File,
}

/// The directory of one soak; removed on drop.
#[derive(Debug)]
struct Directory(PathBuf);

/// A tmpfs for this soak alone.
#[derive(Debug)]
pub(super) struct Disk {
    mounted_at: PathBuf,
    bytes: u64,
}

impl Home {
    /// Creates the directories, and sweeps those of killed soaks.
    pub(super) fn create(config: &Config) -> Result<Self> {
        let parent = config
            .snapshot_path
            .parent()
            .unwrap_or(&config.snapshot_path);
        let soaks = parent.join(SOAKS);
        let failed = || format!("can't make a directory for the soak in {}", soaks.display());
        let create = || -> io::Result<(Directory, File)> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&soaks)?;
            ensure_own(&soaks)?;
            sweep(&soaks)?;
            locked_in(&soaks)
        };
        let (directory, lock) = create().with_context(failed)?;
        let state = directory.0.join(STATE);
        for path in [&state, &directory.0.join(ASIDE)] {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .with_context(failed)?;
        }
        Ok(Self {
            disk: None,
            state,
            directory,
            _lock: lock,
        })
    }

    /// Moves the state to a file system of its own, so that it can be filled.
    ///
    /// It has room for so many bytes of snapshots and images, and for small files.
    ///
    /// # Errors
    /// The reason why that is not possible here.
    pub(super) fn own_disk(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = bytes + OVERHEAD_BYTES;
        let options = std::ffi::CString::new(format!("mode=0700,size={bytes}"))?;
        mount(
            "ironclaw-soak",
            &self.state,
            "tmpfs",
            MOUNT_FLAGS,
            &*options,
        )?;
        self.disk = Some(Disk {
            mounted_at: self.state.clone(),
            bytes,
        });
        Ok(())
    }

    /// Returns the directory of all state.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Returns a directory that no pool looks into, on the same file system as the snapshots.
    pub(super) fn aside(&self) -> PathBuf {
        match self.disk {
            Some(_) => self.state.clone(),
            None => self.directory.0.join(ASIDE),
        }
    }

    /// Returns `config` with all state in this directory, and copies `template` there: a jail links
    /// the files that it uses.
    pub(super) fn settings(&self, config: &Config, template: &Template) -> Result<Config> {
        let mut config = config.clone();
        config.template_path = self.state.join("templates");
        config.snapshot_path = self.state.join("snapshots");
        config.run_path = self.state.join("run");
        // The only one there.
        config.template = TemplateChoice::Default;
        let name = template.hash().to_string();
        let copy = config.template_path.join(&name);
        let copied = || -> io::Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&copy)?;
            let from = template.kernel().parent().unwrap_or(Path::new("/"));
            for entry in fs::read_dir(from)? {
                let entry = entry?;
                // What leads to a snapshot that needs the template does not need its copy.
                if entry.file_type()?.is_file() {
                    fs::copy(entry.path(), copy.join(entry.file_name()))?;
                }
            }
            symlink(&name, config.template_path.join("default"))
        };
        copied().with_context(|| format!("can't copy the template to {}", copy.display()))?;
        Ok(config)
    }
}

impl Disk {
    /// Leaves no room. Uses no memory for that: shrinks the file system to what is used.
    pub(super) fn fill(&self) -> io::Result<()> {
        loop {
            let stat = rustix::fs::statvfs(&self.mounted_at)?;
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            // Zero would mean no limit.
            match self.resize(used.max(stat.f_frsize)) {
                // EINVAL: somebody wrote since the size was read, and more is used. At each attempt
                // there is less room left for that.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                filled => return filled,
            }
        }
    }

    /// Makes room again.
    pub(super) fn free(&self) -> io::Result<()> {
        self.resize(self.bytes)
    }

    fn resize(&self, bytes: u64) -> io::Result<()> {
        let options = format!("size={bytes}");
        Ok(mount_remount(&self.mounted_at, MOUNT_FLAGS, options)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Persists until its last file is closed, but is invisible.
        if let Err(error) = unmount(&self.mounted_at, UnmountFlags::DETACH) {
            let path = self.mounted_at.display();
            tracing::warn!(%path, %error, "a file system stays mounted until the next soak");
        }
    }
}

/// Refuses a directory that others may write to: they could plant one that looks like a dead
/// soak's.
fn ensure_own(soaks: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(soaks)?;
    if metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(
        "it is not a directory of this user's that nobody else may write to; remove it",
    ))
}

/// Creates a new directory and locks it. A soak that begins at the same time may sweep it before it
/// is locked: then creates another, at most as often as others begin.
fn locked_in(soaks: &Path) -> io::Result<(Directory, File)> {
    loop {
        let directory = tempfile::Builder::new().prefix("").tempdir_in(soaks)?;
        let lock = match File::open(directory.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if locked && directory.path().try_exists()? {
            fs::write(directory.path().join(MARK), MARK_LINE)?;
            return Ok((Directory(directory.keep()), lock));
        }
    }
}

/// Removes the directories of soaks whose processes have ended.
fn sweep(soaks: &Path) -> io::Result<()> {
    for entry in fs::read_dir(soaks)? {
        match remove_if_dead(&entry?.path()) {
            // Removed meanwhile by its owner, or by another soak.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn remove_if_dead(directory: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Ok(());
    }
    let lock = File::open(directory)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    if is_marked(directory)? {
        // Most have no mount.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        let _ = unmount(directory.join(STATE), flags);
        return remove(directory);
    }
    // Without a mark, only an empty directory can be a soak's; any other belongs to others.
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

fn is_marked(directory: &Path) -> io::Result<bool> {
    let mark = directory.join(MARK);
    match fs::symlink_metadata(&mark) {
        Ok(facts) if facts.is_file() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(false),
    }
    let mut said = Vec::new();
    let limit = MARK_LINE.len() as u64 + 1;
    File::open(mark)?.take(limit).read_to_end(&mut said)?;
    Ok(said == MARK_LINE.as_bytes())
}

/// Removes a soak's directory, its mark last, so that an interrupted removal can be finished.
fn remove(directory: &Path) -> io::Result<()> {
    for path in [STATE, ASIDE].map(|name| directory.join(name)) {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_file(directory.join(MARK))?;
    fs::remove_dir(directory)
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            let path = self.0.display();
            tracing::warn!(%path, %error, "a soak's directory stays until the next soak");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    fn config(parent: &Path) -> Config {
        let mut config = Config::from_vars(|_| None, true).unwrap();
        config.snapshot_path = parent.join("snapshots");
        config
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn leftovers_of_a_killed_soak_are_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let soaks = parent.path().join(SOAKS);
        fs::create_dir_all(soaks.join("dead/state")).unwrap();
        fs::write(soaks.join("dead").join(MARK), MARK_LINE).unwrap();
        fs::create_dir(soaks.join("half-made")).unwrap();
        fs::create_dir(soaks.join("photos")).unwrap();
        fs::write(soaks.join("photos/a"), "somebody's").unwrap();
        fs::write(soaks.join("file"), "somebody's").unwrap();
        fs::set_permissions(&soaks, Permissions::from_mode(0o700)).unwrap();
        for of_others in ["soak-results", "soak-dead", "snapshots"] {
            let directory = parent.path().join(of_others);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("file"), "somebody's").unwrap();
        }
        let living = Home::create(&config(parent.path())).unwrap();
        assert_eq!(names(&soaks).len(), 3);
        let second = Home::create(&config(parent.path())).unwrap();
        assert_eq!(names(&soaks).len(), 4);
        drop((living, second));
        let mut left = names(&soaks);
        left.sort();
        assert_eq!(left, ["file", "photos"]);
        assert!(soaks.join("photos/a").exists());
        for of_others in ["soak-results", "soak-dead", "snapshots"] {
            let file = parent.path().join(of_others).join("file");
            assert!(file.exists(), "{of_others}");
        }
    }

    #[test]
    fn soaks_that_begin_and_end_at_the_same_time_leave_each_other_alone() {
        let parent = tempfile::tempdir().unwrap();
        let config = config(parent.path());
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..50 {
                        let home = Home::create(&config).unwrap();
                        assert!(home.aside().is_dir());
                    }
                });
            }
        });
        assert_eq!(names(&parent.path().join(SOAKS)), [""; 0]);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_used_and_named() {
        let parent = tempfile::tempdir().unwrap();
        let soaks = parent.path().join(SOAKS);
        fs::create_dir_all(soaks.join("dead")).unwrap();
        fs::set_permissions(&soaks, Permissions::from_mode(0o777)).unwrap();
        let error = Home::create(&config(parent.path())).unwrap_err();
        assert!(error.to_string().contains(SOAKS), "{error}");
        assert!(soaks.join("dead").exists());
    }

    #[test]
    fn a_disk_of_its_own_is_filled_freed_and_unmounted() {
        let parent = tempfile::tempdir().unwrap();
        let config = config(parent.path());
        let mut home = Home::create(&config).unwrap();
        if let Err(error) = home.own_disk(0) {
            // A user who may not mount is told so, and soaks without that fault.
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            assert!(home.disk().is_none() && home.aside().starts_with(parent.path()));
            return;
        }
        let file = home.aside().join("file");
        fs::write(&file, "first").unwrap();
        let disk = home.disk().unwrap();
        disk.fill().unwrap();
        let error = fs::write(home.aside().join("second"), "second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&file).unwrap(), b"first");
        disk.free().unwrap();
        fs::write(home.aside().join("third"), vec![1; 1 << 20]).unwrap();
        drop(home);
        assert_eq!(names(&parent.path().join(SOAKS)), [""; 0]);
    }
}
