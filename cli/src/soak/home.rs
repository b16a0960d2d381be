//! Where a soak works: a directory of its own beside the user's snapshots, gone at the end.
//!
//! ```text
//! <parent of the snapshots' directory>/soak-<random>/   locked while its owner lives
//!     state/{templates,snapshots,run}                   with faults and as root: a file system
//!     aside/                                            what is moved out of or into a snapshot
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ironclaw_orchestrator::template::Template;
use ironclaw_orchestrator::vm::Config;
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

const PREFIX: &str = "soak-";
/// What a soak needs of a file system beside snapshots: a template, sockets, logs.
const BESIDE: u64 = 512 << 20;
/// Of its own file system. Device files work on it: a jail has its own /dev/kvm.
const FLAGS: MountFlags = MountFlags::NOSUID;

/// A soak's directories.
#[derive(Debug)]
pub(super) struct Home {
    disk: Option<Disk>,
    state: PathBuf,
    _lock: File,
    directory: TempDir,
}

/// A file system in memory that is this soak's alone.
#[derive(Debug)]
pub(super) struct Disk {
    mounted_at: PathBuf,
    bytes: u64,
}

impl Home {
    /// Makes the directories, and removes those of soaks that were killed.
    pub(super) fn create(config: &Config) -> Result<Self> {
        let parent = config
            .snapshot_path
            .parent()
            .unwrap_or(&config.snapshot_path);
        let failed = || {
            format!(
                "can't make a directory for the soak in {}",
                parent.display()
            )
        };
        let create = || -> io::Result<(TempDir, File)> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)?;
            let parent_lock = File::open(parent)?;
            // Held for a moment: nobody sees a directory before it is locked.
            flock(&parent_lock, FlockOperation::LockExclusive)?;
            sweep(parent)?;
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let lock = File::open(directory.path())?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok((directory, lock))
        };
        let (directory, lock) = create().with_context(failed)?;
        let state = directory.path().join("state");
        for path in [&state, &directory.path().join("aside")] {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .with_context(failed)?;
        }
        Ok(Self {
            disk: None,
            state,
            _lock: lock,
            directory,
        })
    }

    /// Puts the state onto a file system of its own, so that it can be filled up.
    ///
    /// # Errors
    /// Why that can't be done here.
    pub(super) fn own_disk(&mut self, config: &Config) -> io::Result<()> {
        let snapshots = config.pool_size as u64 * 2 + 2;
        let disk = Disk {
            mounted_at: self.state.clone(),
            bytes: config.machine.memory_bytes() * snapshots + BESIDE,
        };
        let options = format!("mode=0700,size={}", disk.bytes);
        let options = std::ffi::CString::new(options)?;
        mount("ironclaw-soak", &self.state, "tmpfs", FLAGS, &*options)?;
        self.disk = Some(disk);
        Ok(())
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// A directory that no pool looks into, on the same file system as the snapshots.
    pub(super) fn aside(&self) -> PathBuf {
        match self.disk {
            Some(_) => self.state.clone(),
            None => self.directory.path().join("aside"),
        }
    }

    /// `config` with all state in here, and `template` copied to it: a jail links and lends the
    /// files that it uses.
    pub(super) fn settings(&self, config: &Config, template: &Template) -> Result<Config> {
        let config = Config {
            template_path: self.state.join("templates"),
            snapshot_path: self.state.join("snapshots"),
            run_path: self.state.join("run"),
            ..config.clone()
        };
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
                fs::copy(entry.path(), copy.join(entry.file_name()))?;
            }
            symlink(&name, config.template_path.join("default"))
        };
        copied().with_context(|| format!("can't copy the template to {}", copy.display()))?;
        Ok(config)
    }
}

impl Disk {
    /// Leaves no room. It takes no memory to fill it: its size is cut down to what is used.
    pub(super) fn fill(&self) -> io::Result<()> {
        loop {
            let stat = rustix::fs::statvfs(&self.mounted_at)?;
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            // None would mean no limit.
            match self.resize(used.max(stat.f_frsize)) {
                // Less than is used: somebody wrote since it was asked. Each time there is less
                // room to do so.
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
        Ok(mount_remount(&self.mounted_at, FLAGS, options)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It stays until its last file is closed, and nobody can see it until then.
        if let Err(error) = unmount(&self.mounted_at, UnmountFlags::DETACH) {
            let path = self.mounted_at.display();
            tracing::warn!(%path, %error, "a file system stays mounted until the next soak");
        }
    }
}

/// Removes the directories of soaks whose processes are gone.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if !is_ours || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        let lock = File::open(&path)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Most have none.
            let _ = unmount(path.join("state"), UnmountFlags::DETACH);
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_a_killed_soak_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir_all(parent.path().join("soak-dead/state")).unwrap();
        fs::create_dir(parent.path().join("snapshots")).unwrap();
        let living = Home::create(&config(parent.path())).unwrap();
        assert_eq!(names(parent.path()).len(), 2);
        let second = Home::create(&config(parent.path())).unwrap();
        assert_eq!(names(parent.path()).len(), 3);
        drop((living, second));
        assert_eq!(names(parent.path()), ["snapshots"]);
    }

    #[test]
    fn a_disk_of_its_own_is_filled_freed_and_unmounted() {
        let parent = tempfile::tempdir().unwrap();
        let config = config(parent.path());
        let mut home = Home::create(&config).unwrap();
        if let Err(error) = home.own_disk(&config) {
            println!("skipped: no file system can be mounted: {error}");
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
        assert!(names(parent.path()).is_empty());
    }
}
