//! State directories used by a single test, so that it can check for leftovers.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use procfs::net::unix;
use procfs::process::{FDTarget, MMapPath, Process, all_processes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::vm::{self, TIMEOUT};

/// Directories for snapshots and running VMs.
pub(crate) struct Apart(TempDir);

impl Apart {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    #[allow(dead_code, reason = "not every test has more state")]
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn run_path(&self) -> PathBuf {
        self.0.path().join("run")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.0.path().join("snapshots")
    }

    /// Returns `ironclaw` with these directories.
    pub(crate) fn ironclaw(&self, arguments: &[&str]) -> Command {
        let mut command = vm::ironclaw("", arguments);
        command.env("IRONCLAW_RUN_PATH", self.run_path());
        command.env("IRONCLAW_SNAPSHOT_PATH", self.snapshots());
        command
    }

    /// Lists the processes that have a file from here open or mapped, or as working directory.
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

    /// Asserts that no process, no file of a VM, no socket and no unfinished snapshot is left.
    pub(crate) fn assert_nothing_left(&self, after: &str) {
        for process in self.processes() {
            // A process may be exiting, and then ends by itself.
            if let Ok(process) = pidfd_open(pid(process), PidfdFlags::empty()) {
                ended(&process);
            }
        }
        let sockets = unix().unwrap().into_iter();
        let mut left: Vec<_> = sockets
            .filter_map(|socket| socket.path)
            .filter(|path| path.starts_with(self.0.path()))
            .collect();
        // Claims are locks; their files stay.
        left.extend(list(&self.run_path(), |name| name != ".claims"));
        left.extend(list(&self.snapshots(), |name| name.starts_with('.')));
        assert!(left.is_empty(), "left after {after}: {left:?}");
    }
}

/// Lists the entries of a directory with matching names; none if it does not exist.
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

/// Waits, by event, until a process has ended; panics if it goes on.
pub(crate) fn ended(process: &OwnedFd) {
    let patience = Timespec::try_from(TIMEOUT).unwrap();
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ended, 1, "the process goes on");
}
