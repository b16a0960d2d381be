//! Facts about a process from `/proc`, read through an open directory: a PID may name another
//! process a moment later, an open directory of `/proc` never does (proc(5)).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat};
use uuid::Uuid;

use crate::untrusted::is_deceptive;

/// Limit of the bytes read from a file in `/proc`.
const MAX_FILE_BYTES: u64 = 16 << 10;
/// The file with the id of this boot of the host.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Limit of the characters of a program's name, which its user chooses.
const MAX_PROGRAM_NAME: usize = 64;

/// A process, alive or dead.
#[derive(Debug)]
pub struct Proc {
    pid: u32,
    directory: OwnedFd,
}

/// A file's identity, as in `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The file system's device number.
    pub device: u64,
    /// The inode on that file system.
    pub inode: u64,
}

impl Proc {
    /// Opens the process that has this PID now.
    ///
    /// # Errors
    /// There is no such process, or no `/proc`.
    pub fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { pid, directory })
    }

    /// Returns its PID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns its start time in clock ticks since boot. Together with the PID this identifies a
    /// process for as long as the host runs.
    pub fn start_ticks(&self) -> io::Result<u64> {
        start_ticks(&self.read("stat")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns its start time by the wall clock.
    pub fn started(&self) -> io::Result<SystemTime> {
        let mut stat = Vec::new();
        File::open("/proc/stat")?
            .take(1 << 20)
            .read_to_end(&mut stat)?;
        let boot = String::from_utf8_lossy(&stat)
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let hertz = rustix::param::clock_ticks_per_second().max(1);
        let up = Duration::from_secs_f64(self.start_ticks()? as f64 / hertz as f64);
        Ok(UNIX_EPOCH + Duration::from_secs(boot) + up)
    }

    /// Returns whether its initial environment has an entry `NAME=VALUE` that starts with
    /// `beginning`; `false` if this user may not read the environment.
    pub fn has_in_environment(&self, beginning: &[u8]) -> bool {
        let environment = self.read("environ").unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable.starts_with(beginning))
    }

    /// Returns its program's name from the command line, sanitized for display.
    pub fn program(&self) -> io::Result<String> {
        let line = self.read("cmdline")?;
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = first
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        // A process that overwrote its command line still has a name in `comm`.
        let name = match name {
            [] => self.read("comm")?,
            name => name.to_vec(),
        };
        let shown = String::from_utf8_lossy(&name)
            .chars()
            .filter(|c| !is_deceptive(*c))
            .take(MAX_PROGRAM_NAME)
            .collect();
        Ok(shown)
    }

    /// Returns whether it has `file` open and holds a `flock` on it.
    pub fn locks(&self, file: FileId) -> io::Result<bool> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let open_files = openat(&self.directory, "fd", flags, Mode::empty())?;
        for entry in Dir::read_from(&open_files)? {
            let entry = entry?;
            // Closed meanwhile. `.` and `..` are no locks either.
            let Ok(stat) = statat(&open_files, entry.file_name(), AtFlags::empty()) else {
                continue;
            };
            if (FileId {
                device: stat.st_dev,
                inode: stat.st_ino,
            }) != file
            {
                continue;
            }
            let name = format!("fdinfo/{}", entry.file_name().to_string_lossy());
            let info = self.read(&name).unwrap_or_default();
            if String::from_utf8_lossy(&info).lines().any(is_flock) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns the id of this boot of the host, which changes at every boot.
pub fn boot_id() -> io::Result<Uuid> {
    let mut text = String::new();
    File::open(BOOT_ID)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    let number = Uuid::try_parse(text.trim());
    number.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Returns the number of this process's PID namespace; each container has its own.
pub fn pid_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Recognizes a `flock` in a line of `/proc/<pid>/fdinfo/<fd>`.
fn is_flock(line: &str) -> bool {
    let words = line.strip_prefix("lock:").map(str::split_whitespace);
    words.is_some_and(|mut words| words.nth(1) == Some("FLOCK"))
}

/// Lists the processes that hold a `flock` on any file, as far as this process may see them.
pub fn with_locks() -> io::Result<Vec<Proc>> {
    let mut text = String::new();
    File::open("/proc/locks")?
        .take(1 << 20)
        .read_to_string(&mut text)?;
    let mut pids: Vec<u32> = text.lines().filter_map(holder).collect();
    pids.sort_unstable();
    pids.dedup();
    // A process that ended meanwhile holds nothing.
    Ok(pids
        .into_iter()
        .filter_map(|pid| Proc::open(pid).ok())
        .collect())
}

/// Returns the holder of the lock in a line of `/proc/locks`; lines with an arrow are of waiters.
fn holder(line: &str) -> Option<u32> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, pid, ..] => pid.parse().ok(),
        _ => None,
    }
}

/// Reads field 22 of `/proc/<pid>/stat`. Field 2 is the program's name in brackets, which may
/// contain anything, brackets and spaces too.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(after_name + 1..)?).ok()?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
/// Parses texts of `/proc` about a process of another user, who chooses its name.
pub fn fuzz(bytes: &[u8], text: &str) {
    let _ = start_ticks(bytes);
    for line in text.lines() {
        let _ = (holder(line), is_flock(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock, fstat};

    #[test]
    fn a_programs_name_can_not_pass_for_its_start_time() {
        let fields = (3..30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["sh", "a) S 1 1 1", "((", ""] {
            let stat = format!("7 ({name}) {fields}\n");
            assert_eq!(start_ticks(stat.as_bytes()), Some(22), "{name:?}");
        }
        for torn in ["", "7 (sh", "7 (sh) S 1 2", "7 (sh) S \u{e9}"] {
            assert_eq!(start_ticks(torn.as_bytes()), None, "{torn:?}");
        }
    }

    #[test]
    fn a_process_that_ended_is_never_taken_for_a_later_one() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let process = Proc::open(child.id()).unwrap();
        child.wait().unwrap();
        assert!(process.start_ticks().is_err());
        assert!(process.program().is_err());
    }

    #[test]
    fn this_process_started_before_now_and_after_the_host() {
        let us = Proc::open(std::process::id()).unwrap();
        assert!(us.started().unwrap() <= SystemTime::now() + Duration::from_secs(2));
        assert!(us.start_ticks().unwrap() > 0);
        assert!(!us.program().unwrap().is_empty());
    }

    #[test]
    fn the_holder_of_a_lock_is_found_and_a_mere_opener_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        let stat = fstat(&file).unwrap();
        let id = FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        let holders = || -> Vec<u32> {
            let all = with_locks().unwrap().into_iter();
            all.filter(|process| process.locks(id).unwrap_or(false))
                .map(|process| process.pid())
                .collect()
        };
        assert!(holders().is_empty());
        flock(&file, FlockOperation::LockShared).unwrap();
        assert_eq!(holders(), [std::process::id()]);
        drop(file);
        assert!(holders().is_empty());
    }

    #[test]
    fn a_waiter_for_a_lock_does_not_hold_it() {
        assert_eq!(
            holder("1: FLOCK  ADVISORY  WRITE 3187 fe:00:10 0 EOF"),
            Some(3187)
        );
        assert_eq!(
            holder("1: -> FLOCK  ADVISORY  WRITE 3188 fe:00:10 0 EOF"),
            None
        );
        assert_eq!(holder("2: POSIX  ADVISORY  READ 5 fe:00:10 0 EOF"), None);
        assert_eq!(holder(""), None);
    }
}
