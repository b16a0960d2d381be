//! Watches processes from outside.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

pub(crate) fn kill(number: u32) {
    kill_process(pid(number), Signal::KILL).unwrap();
}

pub(crate) fn is_alive(number: u32) -> bool {
    Path::new(&format!("/proc/{number}")).exists()
}

/// A process watched for its end.
pub(crate) struct Watched(OwnedFd);

impl Watched {
    pub(crate) fn new(number: u32) -> Self {
        Self(pidfd_open(pid(number), PidfdFlags::empty()).unwrap())
    }

    /// Returns whether it ends within `patience`.
    pub(crate) fn ends_within(&self, patience: Duration) -> bool {
        readable_within(&self.0, patience)
    }
}

/// Returns whether `fd` becomes readable within `patience`.
pub(crate) fn readable_within(fd: &OwnedFd, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap() == 1
}

/// Lists the processes whose working directory is below `directory`, as Firecracker's is.
pub(crate) fn living_in(directory: &Path) -> Vec<(u32, PathBuf)> {
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    // A process that ended meanwhile has no working directory.
    let places = numbers.filter_map(|number| {
        let place = std::fs::read_link(format!("/proc/{number}/cwd")).ok()?;
        Some((number, place))
    });
    places
        .filter(|(_, place)| place.starts_with(directory))
        .collect()
}
