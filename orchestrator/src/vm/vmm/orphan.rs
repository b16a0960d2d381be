//! VMMs that outlived their owner, though they should have died with it: the parent-death signal
//! is lost where the kernel takes the start of a program for a gain of privileges (prctl(2)), as
//! with a VMM that has file capabilities.
//!
//! Each VMM is recorded in its owner's directory while it lives, by an empty file: all is in its
//! name, so that it is there whole or not at all, and takes no block of a disk that is full.
//! Whoever sweeps the directory of a dead owner kills what is recorded there: the process with that
//! number and start time, in this boot of the host, and no other. So it does with what carries the
//! owner's mark in its environment: what a VMM that is a script started in its place, wherever that
//! went.

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

/// How the name of a VMM's record starts.
const VMM: &str = ".vmm-";
/// How that of the owner itself starts.
const OWNER: &str = ".owner-";
/// The variable in a VMM's environment that names it.
pub(crate) const MARK: &str = "IRONCLAW_VMM";
/// How long killed processes may take to end, all together; they take milliseconds.
const ENDED: Duration = Duration::from_secs(10);

/// A process, told from all others that this host has, had and will have.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    pid: u32,
    start_ticks: u64,
    /// Whose numbers: a container has its own.
    pid_namespace: u64,
    /// Which start of the host.
    boot_id: Uuid,
}

/// The record of a living process; removed on drop.
#[derive(Debug)]
pub(crate) struct Record(PathBuf);

impl Record {
    /// Records the process `pid`, a child of ours, in `directory`.
    pub(crate) fn create(directory: &Path, pid: u32) -> io::Result<Self> {
        create(directory, VMM, pid).map(Self)
    }
}

/// Records that `directory` is that of the process `pid`, for as long as it is there.
pub(crate) fn record_owner(directory: &Path, pid: u32) -> io::Result<()> {
    create(directory, OWNER, pid).map(drop)
}

fn create(directory: &Path, prefix: &str, pid: u32) -> io::Result<PathBuf> {
    let identity = Identity::of(&Proc::open(pid)?)?;
    let path = directory.join(format!("{prefix}{identity}"));
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    Ok(path)
}

/// Whether the process that recorded itself as the owner of `directory` has ended; `false` if that
/// can't be told.
pub(crate) fn owner_has_ended(directory: &Path) -> bool {
    let has_ended = |owner: Identity| {
        owner.is_of_here().is_ok_and(|is_of_here| is_of_here)
            && owner.find().is_ok_and(|process| process.is_none())
    };
    owners(directory).into_iter().any(has_ended)
}

/// Whether a process recorded itself as the owner of `directory`, whichever and whenever.
pub(crate) fn names_its_owner(directory: &Path) -> bool {
    !owners(directory).is_empty()
}

fn owners(directory: &Path) -> Vec<Identity> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let owners = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        Identity::parse(OWNER, name.to_str()?)
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

impl Identity {
    fn of(process: &Proc) -> io::Result<Self> {
        Ok(Self {
            pid: process.pid(),
            start_ticks: process.start_ticks()?,
            pid_namespace: proc::pid_namespace()?,
            boot_id: proc::boot_id()?,
        })
    }

    /// What the name of a record says.
    fn parse(prefix: &str, name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix(prefix)?.splitn(4, '-');
        Some(Self {
            pid: fields.next()?.parse().ok()?,
            start_ticks: fields.next()?.parse().ok()?,
            pid_namespace: fields.next()?.parse().ok()?,
            boot_id: fields.next()?.parse().ok()?,
        })
    }

    /// In another boot or container the number means nothing.
    fn is_of_here(&self) -> io::Result<bool> {
        Ok(self.boot_id == proc::boot_id()? && self.pid_namespace == proc::pid_namespace()?)
    }

    /// The process, if it lives.
    fn find(&self) -> io::Result<Option<OwnedFd>> {
        if !self.is_of_here()? {
            return Ok(None);
        }
        let Some(pid) = sys::pid(self.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // Nobody has the number, or a thread has it by now: EINVAL, or ENOENT since Linux 6.15.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Looked at once it can't be mistaken any more.
        let found = Proc::open(self.pid).and_then(|process| Self::of(&process));
        Ok(found.is_ok_and(|found| found == *self).then_some(pidfd))
    }
}

impl fmt::Display for Identity {
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

/// Kills the processes that are recorded in `directory`, whose owner is dead, or carry its mark, and
/// waits for their end. One that can't be found or does not end keeps none of the others alive.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if one does not end, and whatever keeps one from being found; the first
/// of several.
pub(crate) fn end_all(directory: &Path) -> io::Result<()> {
    let mut result = Ok(());
    let mut orphans = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(identity) = Identity::parse(VMM, &entry.file_name().to_string_lossy()) else {
            continue;
        };
        match kill(&identity) {
            Ok(killed) => orphans.extend(killed.map(|pidfd| (identity.pid, pidfd))),
            Err(error) => result = result.and(Err(error)),
        }
    }
    let start = Instant::now();
    result = result.and(wait_for_all(orphans, start));
    let owner = directory.file_name().unwrap_or_default().to_string_lossy();
    result.and(end_marked(&mark_of_all(&owner), start))
}

/// The mark of a VMM, which no other has: with its `number` among those of its owner, whose
/// directory's name is unique on the host.
pub(crate) fn mark(owner: &str, number: u64) -> String {
    format!("{}{number}/", mark_of_all(owner))
}

/// How the marks of all VMMs of an owner begin.
fn mark_of_all(owner: &str) -> String {
    format!("{owner}/")
}

/// Kills the processes whose mark begins with `mark`, and waits until they have ended: again and
/// again, for what one of them started meanwhile.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if one has not ended in time since `start`; no `/proc`.
pub(crate) fn end_marked(mark: &str, start: Instant) -> io::Result<()> {
    let mut result = Ok(());
    while result.is_ok() && start.elapsed() < ENDED {
        let mut orphans = Vec::new();
        for (process, pidfd) in marked(mark)? {
            // It may have ended since.
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

/// Waits for the end of processes that were killed at `start`; the first error counts.
fn wait_for_all(orphans: Vec<(u32, OwnedFd)>, start: Instant) -> io::Result<()> {
    let mut result = Ok(());
    for (pid, pidfd) in orphans {
        match wait(pid, &pidfd, ENDED.saturating_sub(start.elapsed())) {
            Ok(()) => tracing::info!(pid, "a VMM whose owner is dead has ended"),
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}

/// The processes whose mark begins with `mark`, as far as this user may look at them.
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
        // It lives still, so that the descriptor is its own, and not that of one that came after it.
        process
            .has_in_environment(mark.as_bytes())
            .then_some((process, pidfd))
    }))
}

/// Kills a process, if it lives.
fn kill(identity: &Identity) -> io::Result<Option<OwnedFd>> {
    let process = identity.find()?;
    if let Some(pidfd) = &process {
        // It may be on its way out already: those that died with their owner are met here too, if
        // that was a moment ago.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    Ok(process)
}

/// Waits for the end of a process that was killed.
fn wait(pid: u32, pidfd: &OwnedFd, patience: Duration) -> io::Result<()> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    let ended = &mut [PollFd::new(pidfd, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(ended, Some(&patience)))? == 0 {
        let text = format!("process {pid} was killed and has not ended within {ENDED:?}");
        return Err(io::Error::new(ErrorKind::TimedOut, text));
    }
    Ok(())
}

#[cfg(any(test, feature = "fuzzing"))]
/// A file name in a run directory.
pub(crate) fn fuzz(name: &str) {
    let _ = Identity::parse(VMM, name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command, Stdio};

    /// A process that goes on until it is killed or its standard input ends.
    fn orphan() -> Child {
        let mut command = Command::new("/bin/cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    /// Lets it end by itself, if it still can; says whether it did.
    fn ends_by_itself(mut process: Child) -> bool {
        drop(process.stdin.take());
        process.wait().unwrap().success()
    }

    fn identity(record: &Record) -> Identity {
        let name = record.0.file_name().unwrap().to_str().unwrap();
        Identity::parse(VMM, name).unwrap()
    }

    #[test]
    fn a_recorded_process_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = orphan();
        let _record = Record::create(directory.path(), process.id()).unwrap();
        end_all(directory.path()).unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        // It is gone, and so there is nothing left to do.
        end_all(directory.path()).unwrap();
    }

    #[test]
    fn another_process_with_the_same_number_is_left_alone() {
        type Change = fn(&mut Identity);
        let changes: [Change; 3] = [
            |it| it.start_ticks -= 1,
            |it| it.boot_id = Uuid::nil(),
            |it| it.pid_namespace += 1,
        ];
        for change in changes {
            let directory = tempfile::tempdir().unwrap();
            let process = orphan();
            let mut record = Record::create(directory.path(), process.id()).unwrap();
            let mut other = identity(&record);
            change(&mut other);
            let renamed = directory.path().join(format!("{VMM}{other}"));
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
        let _thread = Record::create(directory.path(), number).unwrap();
        let mut process = orphan();
        let _record = Record::create(directory.path(), process.id()).unwrap();
        end_all(directory.path()).unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        drop(over);
        thread.join().unwrap();
    }

    #[test]
    fn a_record_takes_no_room_and_is_gone_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let process = orphan();
        let record = Record::create(directory.path(), process.id()).unwrap();
        assert_eq!(fs::metadata(&record.0).unwrap().len(), 0);
        drop(record);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(ends_by_itself(process));
    }

    #[test]
    fn a_malformed_record_kills_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let process = orphan();
        let record = Record::create(directory.path(), process.id()).unwrap();
        let whole = format!("{VMM}{}", identity(&record));
        drop(record);
        for cut in 0..whole.len() {
            assert_eq!(
                Identity::parse(VMM, &whole[..cut]),
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
