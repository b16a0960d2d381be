//! Kills VMMs that outlived their owner, though the kernel should have killed them with it: the
//! parent-death signal is lost where the start of a program counts as a gain of privileges
//! (prctl(2)), as for a VMM with file capabilities.
//!
//! Each living VMM is recorded in its owner's directory by an empty file. All data is in the file's
//! name, so that the record is complete or does not exist, and needs no block of a full disk. A
//! sweep of a dead owner's directory kills the recorded processes: those with that PID and start
//! time, in this boot of the host, and no others. It also kills processes with the owner's mark in
//! their environment, like those that a wrapper script started, wherever they went.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

use crate::sys;
use crate::vm::proc::{self, Proc};

/// The prefix of a VMM's record.
const VMM_PREFIX: &str = ".vmm-";
/// The prefix of the owner's own record.
const OWNER_PREFIX: &str = ".owner-";
/// The environment variable of a VMM that identifies it.
pub(crate) const MARK: &str = "IRONCLAW_VMM";
/// Timeout of the end of all killed processes together; they take milliseconds.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for each of them in addition: a thousand VMs end one after the other.
const KILL_TIMEOUT_EACH: Duration = Duration::from_millis(20);

/// A process, distinct from all others that this host has, had and will have.
#[derive(Debug, PartialEq, Eq)]
struct ProcessIdentity {
    pid: u32,
    start_ticks: u64,
    /// The PID namespace of the PID: a container has its own.
    pid_namespace: u64,
    /// The boot of the host.
    boot_id: Uuid,
}

/// The record of a living process; removed on drop.
#[derive(Debug)]
pub(crate) struct Record(PathBuf);

impl Record {
    /// Records the process `pid`, a child of ours, in `directory`. The record is one more link of
    /// `owner`, the record of that, if there is one: an inode costs more.
    pub(crate) fn create(directory: &Path, owner: Option<&Path>, pid: u32) -> io::Result<Self> {
        let path = path(directory, VMM_PREFIX, pid)?;
        // A file takes only so many links, and some file systems have none.
        if owner.is_none_or(|owner| fs::hard_link(owner, &path).is_err()) {
            create(&path)?;
        }
        Ok(Self(path))
    }
}

/// Records the process `pid` as the owner of `directory`, for as long as that exists; returns the
/// path of the record.
pub(crate) fn record_owner(directory: &Path, pid: u32) -> io::Result<PathBuf> {
    let path = path(directory, OWNER_PREFIX, pid)?;
    create(&path)?;
    Ok(path)
}

fn path(directory: &Path, prefix: &str, pid: u32) -> io::Result<PathBuf> {
    let identity = ProcessIdentity::from_process(&Proc::open(pid)?)?;
    Ok(directory.join(format!("{prefix}{identity}")))
}

fn create(path: &Path) -> io::Result<()> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Returns whether the recorded owner of `directory` has ended; `false` if that is unknown.
pub(crate) fn owner_has_ended(directory: &Path) -> bool {
    let has_ended = |owner: ProcessIdentity| {
        owner.is_of_here().is_ok_and(|is_of_here| is_of_here)
            && owner.find().is_ok_and(|process| process.is_none())
    };
    owners(directory).into_iter().any(has_ended)
}

/// Returns whether `directory` has a record of an owner, dead or alive.
pub(crate) fn names_its_owner(directory: &Path) -> bool {
    !owners(directory).is_empty()
}

fn owners(directory: &Path) -> Vec<ProcessIdentity> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let owners = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        ProcessIdentity::parse(OWNER_PREFIX, name.to_str()?)
    });
    owners.collect()
}

impl Drop for Record {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a VMM's record stays");
            }
            _ => {}
        }
    }
}

impl ProcessIdentity {
    fn from_process(process: &Proc) -> io::Result<Self> {
        Ok(Self {
            pid: process.pid(),
            start_ticks: process.start_ticks()?,
            pid_namespace: proc::pid_namespace()?,
            boot_id: proc::boot_id()?,
        })
    }

    /// Parses the name of a record.
    fn parse(prefix: &str, name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix(prefix)?.splitn(4, '-');
        Some(Self {
            pid: fields.next()?.parse().ok()?,
            start_ticks: fields.next()?.parse().ok()?,
            pid_namespace: fields.next()?.parse().ok()?,
            boot_id: fields.next()?.parse().ok()?,
        })
    }

    /// Returns whether it is of this boot and PID namespace: elsewhere the PID is meaningless.
    fn is_of_here(&self) -> io::Result<bool> {
        Ok(self.boot_id == proc::boot_id()? && self.pid_namespace == proc::pid_namespace()?)
    }

    /// Opens the process, if it lives.
    fn find(&self) -> io::Result<Option<OwnedFd>> {
        if !self.is_of_here()? {
            return Ok(None);
        }
        let Some(pid) = sys::pid(self.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // No process has the PID, or a thread has it by now: EINVAL, or ENOENT since Linux
            // 6.15.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Checked behind the open of the pidfd, which can't come to mean another process.
        let found = Proc::open(self.pid).and_then(|process| Self::from_process(&process));
        Ok(found.is_ok_and(|found| found == *self).then_some(pidfd))
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            start_ticks,
            pid_namespace,
            boot_id,
        } = self;
        write!(f, "{pid}-{start_ticks}-{pid_namespace}-{boot_id}")
    }
}

/// Kills the processes that are recorded in `directory`, whose owner is dead, or carry its mark,
/// and waits for their end. Goes on with the others if one can't be found or does not end.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if one does not end, or the error that kept one from being found; the
/// first of several.
pub(crate) fn end_all(directory: &Path) -> io::Result<()> {
    let mut result = Ok(());
    let mut orphans = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(identity) =
            ProcessIdentity::parse(VMM_PREFIX, &entry.file_name().to_string_lossy())
        else {
            continue;
        };
        match kill(&identity) {
            Ok(killed) => orphans.extend(killed.map(|pidfd| (identity.pid, pidfd))),
            Err(error) => result = result.and(Err(error)),
        }
    }
    result = result.and(wait_for_all(orphans, Instant::now()));
    let owner = directory.file_name().unwrap_or_default().to_string_lossy();
    result.and(end_marked(&mark_of_all(&owner), Instant::now()))
}

/// Returns the mark of a VMM, unique on the host: the name of its owner's directory and a `number`.
pub(crate) fn mark(owner: &str, number: u64) -> String {
    format!("{}{number}/", mark_of_all(owner))
}

/// Returns the prefix of the marks of all VMMs of an owner.
fn mark_of_all(owner: &str) -> String {
    format!("{owner}/")
}

/// Kills the processes whose mark begins with `mark`, and waits until they have ended; repeats that
/// for processes which these started meanwhile.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if one lives on at the timeout after `start`; or there is no `/proc`.
pub(crate) fn end_marked(mark: &str, start: Instant) -> io::Result<()> {
    let mut result = Ok(());
    while result.is_ok() && start.elapsed() < KILL_TIMEOUT {
        let mut orphans = Vec::new();
        for (process, pidfd) in marked(mark)? {
            // May fail because it has ended.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            orphans.push((process.pid(), pidfd));
        }
        if orphans.is_empty() {
            break;
        }
        result = wait_for_all(orphans, start);
    }
    result
}

/// Waits for the end of processes that were killed at `start`; returns the first error.
fn wait_for_all(orphans: Vec<(u32, OwnedFd)>, start: Instant) -> io::Result<()> {
    let mut result = Ok(());
    let number = u32::try_from(orphans.len()).unwrap_or(u32::MAX);
    let limit = KILL_TIMEOUT.saturating_add(KILL_TIMEOUT_EACH.saturating_mul(number));
    for (pid, pidfd) in orphans {
        match wait(pid, &pidfd, limit.saturating_sub(start.elapsed())) {
            Ok(()) => tracing::info!(pid, "a VMM whose owner is dead has ended"),
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}

/// Finds the processes whose mark begins with `mark`, as far as this user may inspect them.
pub(crate) fn marked(mark: &str) -> io::Result<impl Iterator<Item = (Proc, OwnedFd)> + use<>> {
    let mark = format!("{MARK}={mark}");
    let numbers = fs::read_dir("/proc")?.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse().ok()
    });
    let others = numbers.filter(|number| *number != std::process::id());
    Ok(others.filter_map(move |number| {
        let process = Proc::open(number).ok()?;
        let pidfd = pidfd_open(sys::pid(number)?, PidfdFlags::empty()).ok()?;
        // The process still lives, so the pidfd is its own, not that of a successor with the same
        // PID.
        process
            .has_in_environment(mark.as_bytes())
            .then_some((process, pidfd))
    }))
}

/// Kills a process, if it lives.
fn kill(identity: &ProcessIdentity) -> io::Result<Option<OwnedFd>> {
    let process = identity.find()?;
    if let Some(pidfd) = &process {
        // May fail because it is exiting: processes that died with their owner a moment ago are
        // found, too.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    Ok(process)
}

/// Waits for the end of a process that was killed.
fn wait(pid: u32, pidfd: &OwnedFd, patience: Duration) -> io::Result<()> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    let ended = &mut [PollFd::new(pidfd, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(ended, Some(&patience)))? == 0 {
        let text = format!("process {pid} was killed, and does not end");
        return Err(io::Error::new(ErrorKind::TimedOut, text));
    }
    Ok(())
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
/// Parses a file name of a run directory.
pub(crate) fn fuzz(name: &str) {
    let _ = ProcessIdentity::parse(VMM_PREFIX, name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command, Stdio};

    /// Starts a process that runs until it is killed or its standard input ends.
    fn orphan() -> Child {
        let mut command = Command::new("/bin/cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    /// Makes it end by itself, if it lives; returns whether it did.
    fn ends_by_itself(mut process: Child) -> bool {
        drop(process.stdin.take());
        process.wait().unwrap().success()
    }

    fn identity(record: &Record) -> ProcessIdentity {
        let name = record.0.file_name().unwrap().to_str().unwrap();
        ProcessIdentity::parse(VMM_PREFIX, name).unwrap()
    }

    #[test]
    fn a_recorded_process_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = orphan();
        let _record = Record::create(directory.path(), None, process.id()).unwrap();
        end_all(directory.path()).unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        // The process is gone: nothing is left to do.
        end_all(directory.path()).unwrap();
    }

    #[test]
    fn another_process_with_the_same_number_is_left_alone() {
        type Change = fn(&mut ProcessIdentity);
        let changes: [Change; 3] = [
            |it| it.start_ticks -= 1,
            |it| it.boot_id = Uuid::nil(),
            |it| it.pid_namespace += 1,
        ];
        for change in changes {
            let directory = tempfile::tempdir().unwrap();
            let process = orphan();
            let mut record = Record::create(directory.path(), None, process.id()).unwrap();
            let mut other = identity(&record);
            change(&mut other);
            let renamed = directory.path().join(format!("{VMM_PREFIX}{other}"));
            fs::rename(&record.0, &renamed).unwrap();
            record.0 = renamed;
            end_all(directory.path()).unwrap();
            assert!(ends_by_itself(process));
        }
    }

    #[test]
    fn a_number_that_a_thread_has_by_now_keeps_no_orphan_alive() {
        let directory = tempfile::tempdir().unwrap();
        let (over, wait) = std::sync::mpsc::channel::<()>();
        let (tell, number) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            let _ = wait.recv();
        });
        let number = number.recv().unwrap().as_raw_nonzero().get();
        let number = u32::try_from(number).unwrap();
        let _thread = Record::create(directory.path(), None, number).unwrap();
        let mut process = orphan();
        let _record = Record::create(directory.path(), None, process.id()).unwrap();
        end_all(directory.path()).unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        drop(over);
        thread.join().unwrap();
    }

    #[test]
    fn a_record_takes_no_room_and_is_gone_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let process = orphan();
        let owner = record_owner(directory.path(), std::process::id()).unwrap();
        let record = Record::create(directory.path(), Some(&owner), process.id()).unwrap();
        let (of_it, of_owner) = (
            fs::metadata(&record.0).unwrap(),
            fs::metadata(&owner).unwrap(),
        );
        assert_eq!((of_it.len(), of_it.ino()), (0, of_owner.ino()));
        drop(record);
        fs::remove_file(owner).unwrap();
        let record = Record::create(directory.path(), None, process.id()).unwrap();
        drop(record);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(ends_by_itself(process));
    }

    #[test]
    fn a_malformed_record_kills_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let process = orphan();
        let record = Record::create(directory.path(), None, process.id()).unwrap();
        let whole = format!("{VMM_PREFIX}{}", identity(&record));
        drop(record);
        for cut in 0..whole.len() {
            assert_eq!(
                ProcessIdentity::parse(VMM_PREFIX, &whole[..cut]),
                None,
                "{}",
                &whole[..cut]
            );
        }
        fs::write(directory.path().join(&whole[..whole.len() - 1]), "").unwrap();
        fs::create_dir(directory.path().join("0")).unwrap();
        end_all(directory.path()).unwrap();
        assert!(ends_by_itself(process));
    }
}
