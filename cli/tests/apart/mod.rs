//! A place for VMs apart from all others, so that what is left of them can be told.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use procfs::net::unix;
use procfs::process::{FDTarget, MMapPath, Process, all_processes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::vm::{self, PATIENCE};

/// Directories of its own for snapshots and running VMs.
pub(crate) struct Apart(TempDir);

impl Apart {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn run_path(&self) -> PathBuf {
        self.0.path().join("run")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.0.path().join("snapshots")
    }

    /// `ironclaw` that works here.
    pub(crate) fn ironclaw(&self, arguments: &[&str]) -> Command {
        let mut command = vm::ironclaw("", arguments);
        command.env("IRONCLAW_RUN_PATH", self.run_path());
        command.env("IRONCLAW_SNAPSHOT_PATH", self.snapshots());
        command
    }

    /// The processes that have a file from here open or mapped, or work here.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let is_here = |path: &Path| path.starts_with(self.0.path());
        let uses = |process: &Process| {
            let has_open = process.fd().is_ok_and(|mut fds| {
                fds.any(|fd| matches!(fd.map(|fd| fd.target), Ok(FDTarget::Path(path)) if is_here(&path)))
            });
            let has_mapped = process.maps().is_ok_and(|maps| {
                maps.iter()
                    .any(|map| matches!(&map.pathname, MMapPath::Path(path) if is_here(path)))
            });
            has_open || has_mapped || process.cwd().is_ok_and(|path| is_here(&path))
        };
        let processes = all_processes().unwrap().flatten();
        processes
            .filter(uses)
            .map(|process| u32::try_from(process.pid).unwrap())
            .collect()
    }

    /// No process, no file of a VM, no socket, and nothing half made among the snapshots.
    pub(crate) fn assert_nothing_left(&self, after: &str) {
        for process in self.processes() {
            // It may be on its way out, and ends by itself then.
            if let Ok(process) = pidfd_open(pid(process), PidfdFlags::empty()) {
                ended(&process);
            }
        }
        let sockets = unix().unwrap().into_iter();
        let mut left: Vec<_> = sockets
            .filter_map(|socket| socket.path)
            .filter(|path| path.starts_with(self.0.path()))
            .collect();
        // Names are claimed by locks on their files, which stay.
        left.extend(list(&self.run_path(), |name| name != ".claims"));
        left.extend(list(&self.snapshots(), |name| name.starts_with('.')));
        assert!(left.is_empty(), "left after {after}: {left:?}");
    }
}

/// The entries of a directory with such names; none where it does not exist.
fn list(directory: &Path, such: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| such(entry.file_name().to_str().unwrap()))
        .map(|entry| entry.path())
        .collect()
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

#[allow(dead_code, reason = "not every test watches processes")]
pub(crate) fn watch(number: u32) -> OwnedFd {
    pidfd_open(pid(number), PidfdFlags::empty()).unwrap()
}

/// Waits, by event, until a process has ended; one that goes on is a failure.
pub(crate) fn ended(process: &OwnedFd) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ended, 1, "the process goes on");
}
