//! Finds out whether anybody waits for data from a pipe, such as a command's standard input.
//!
//! The kernel tells a pipe's writer that there is room, but not that somebody waits at the other
//! end. procfs shows what each thread waits for (proc_pid_syscall(5)). A thread that waits for
//! several descriptors, by poll(2) or the like, counts as a reader: it holds the pipe, and what
//! else it waits for is unknown. So does a thread that waits in an unknown way for a while, and one
//! whose descriptor of the pipe is non-blocking.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fstat};
use rustix::io::ioctl_fionread;

/// The time until the first check, which doubles with each one up to the longest.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(64);
/// Number of checks with a holder that waits for something unknown, after which that is assumed to
/// be the pipe: most of half a second.
const UNKNOWN: u32 = 12;

/// The longest time between checks of a terminal, which go on as long as its command.
const LONGEST_OF_TERMINAL: Duration = Duration::from_secs(1);

/// Checks repeatedly for a waiting reader, until there is one.
#[derive(Debug)]
pub(crate) struct ReaderSearch {
    due: Instant,
    pause: Duration,
    longest: Duration,
    unknown: u32,
}

/// The state of the threads that hold a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reader {
    /// None of them waits for it.
    Elsewhere,
    /// One waits for something unknown.
    Unknown,
    /// One waits for it.
    Waiting,
}

impl ReaderSearch {
    pub(crate) fn start(now: Instant) -> Self {
        Self {
            due: now + FIRST,
            pause: FIRST,
            longest: LONGEST,
            unknown: 0,
        }
    }

    /// Starts the checks of a terminal.
    pub(crate) fn start_of_terminal(now: Instant) -> Self {
        Self {
            longest: LONGEST_OF_TERMINAL,
            ..Self::start(now)
        }
    }

    /// Returns the time of the next check.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Returns whether somebody waits for the empty pipe with this writing end; checks only if it
    /// is time.
    pub(crate) fn look(&mut self, pipe: impl AsFd, now: Instant) -> bool {
        if !self.is_due(now) {
            return false;
        }
        if !matches!(ioctl_fionread(&pipe), Ok(0)) {
            return false;
        }
        let Ok(status) = fstat(&pipe) else {
            return true;
        };
        self.finds(&PathBuf::from(format!("pipe:[{}]", status.st_ino)))
    }

    /// Returns whether somebody waits for what is typed on the terminal of this name; checks only if
    /// it is time. Nobody waits where something is there to be read.
    pub(crate) fn look_at_terminal(&mut self, name: &Path, now: Instant) -> bool {
        self.is_due(now) && self.finds(name)
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.due;
        if is_due {
            self.pause = (2 * self.pause).min(self.longest);
            self.due = now + self.pause;
        }
        is_due
    }

    fn finds(&mut self, link: &Path) -> bool {
        match find_reader(Path::new("/proc"), link) {
            Some(Reader::Elsewhere) => {
                self.unknown = 0;
                false
            }
            Some(Reader::Unknown) => {
                self.unknown += 1;
                self.unknown >= UNKNOWN
            }
            // Without procfs nobody knows, and a waiting command must not wait for ever.
            Some(Reader::Waiting) | None => true,
        }
    }
}

/// Returns the state of the pipe's holders, as far as they are visible; `None` without procfs.
fn find_reader(procfs: &Path, pipe: &Path) -> Option<Reader> {
    let ours = std::process::id().to_string();
    let mut found = Reader::Elsewhere;
    for entry in fs::read_dir(procfs).ok()?.flatten() {
        let name = entry.file_name();
        let is_number = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if is_number && name != *ours {
            found = found.max(look_at_process(&entry.path(), pipe));
        }
    }
    Some(found)
}

fn look_at_process(process: &Path, pipe: &Path) -> Reader {
    let Some(held) = reading_ends(process, pipe) else {
        return Reader::Elsewhere;
    };
    if held.iter().any(|end| end.is_nonblocking) {
        return Reader::Waiting;
    }
    let threads = fs::read_dir(process.join("task"));
    let threads = threads.into_iter().flatten().flatten();
    let waits = threads.map(|thread| {
        let call = fs::read_to_string(thread.path().join("syscall"));
        call.map_or(Reader::Unknown, |call| waits_for(&call, &held))
    });
    waits.max().unwrap_or(Reader::Elsewhere)
}

/// A descriptor of a pipe's reading end.
#[derive(Debug, PartialEq, Eq)]
struct ReadingEnd {
    number: u64,
    is_nonblocking: bool,
}

/// Lists a process's reading ends of the pipe; `None` if it has none.
fn reading_ends(process: &Path, pipe: &Path) -> Option<Vec<ReadingEnd>> {
    let descriptors = fs::read_dir(process.join("fd")).ok()?.flatten();
    let held = descriptors.filter(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == pipe));
    let ends = held.filter_map(|fd| {
        let name = fd.file_name();
        let info = fs::read_to_string(process.join("fdinfo").join(&name)).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        let flags = OFlags::from_bits_retain(flags);
        (!flags.contains(OFlags::WRONLY)).then_some(ReadingEnd {
            number: name.to_str()?.parse().ok()?,
            is_nonblocking: flags.contains(OFlags::NONBLOCK),
        })
    });
    let ends: Vec<_> = ends.collect();
    (!ends.is_empty()).then_some(ends)
}

/// Parses procfs' description of a thread: `running`, or the number of a system call and its
/// arguments in hexadecimal. Numbers are those of x86-64.
fn waits_for(call: &str, held: &[ReadingEnd]) -> Reader {
    let mut words = call.split_ascii_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<i64>().ok()) else {
        return Reader::Elsewhere;
    };
    let mut argument = || {
        let digits = words.next()?.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok()
    };
    let is_held = |descriptor| held.iter().any(|end| Some(end.number) == descriptor);
    match number {
        // read, pread64, readv, preadv, splice, tee, vmsplice, preadv2: the first argument is the
        // descriptor.
        0 | 17 | 19 | 275 | 276 | 278 | 295 | 327 if is_held(argument()) => Reader::Waiting,
        // poll, select, epoll_wait, pselect6, ppoll, epoll_pwait, io_uring_enter, epoll_pwait2.
        7 | 23 | 232 | 270 | 271 | 281 | 426 | 441 => Reader::Waiting,
        // The first ones on another descriptor; and write, pause, nanosleep, accept, sendto,
        // recvfrom, sendmsg, recvmsg, wait4, flock, fsync, rt_sigtimedwait, rt_sigsuspend, futex,
        // clock_nanosleep, waitid, accept4; and -1 of a thread that waits in the kernel for
        // something else, like a page.
        -1 | 0 | 17 | 19 | 275 | 276 | 278 | 295 | 327 | 1 | 20 | 34 | 35 | 42 | 43 | 44 | 45
        | 46 | 47 | 61 | 73 | 74 | 128 | 130 | 202 | 230 | 247 | 288 => Reader::Elsewhere,
        _ => Reader::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process_group};

    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    /// Checks until somebody waits, at most so many times.
    fn finds_one(child: &Child, looks: u32) -> bool {
        let pipe = child.stdin.as_ref().unwrap();
        let mut search = ReaderSearch::start(Instant::now());
        (0..looks).any(|_| {
            std::thread::sleep(search.due().saturating_duration_since(Instant::now()));
            search.look(pipe, Instant::now())
        })
    }

    fn end(mut child: Child) {
        // Together with the shell's children.
        kill_process_group(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_reader_that_waits_is_found_also_behind_a_shell() {
        for script in ["exec cat", "cat; true", "read line", "cat /dev/stdin; true"] {
            let child = shell(script);
            assert!(finds_one(&child, 1000), "{script}");
            end(child);
        }
    }

    #[test]
    fn a_process_that_does_something_else_is_not_taken_for_a_reader() {
        for script in ["exec sleep 1000", "sleep 1000; cat", "while :; do :; done"] {
            let child = shell(script);
            assert!(!finds_one(&child, 20), "{script}");
            end(child);
        }
    }

    #[test]
    fn a_blocked_read_is_recognized_by_its_system_call() {
        let held = [ReadingEnd {
            number: 0,
            is_nonblocking: false,
        }];
        for (call, expected) in [
            ("running\n", Reader::Elsewhere),
            (
                "0 0x0 0x7ffe 0x1000 0x0 0x0 0x0 0x7ffe 0x7f1",
                Reader::Waiting,
            ),
            (
                "0 0x3 0x7ffe 0x1000 0x0 0x0 0x0 0x7ffe 0x7f1",
                Reader::Elsewhere,
            ),
            (
                "232 0x5 0x7ffe 0x40 0xffffffff 0x0 0x0 0x1 0x2",
                Reader::Waiting,
            ),
            ("230 0x0 0x0 0x7ffe 0x0 0x0 0x0 0x1 0x2", Reader::Elsewhere),
            ("-1 0x7ffe 0x7f1", Reader::Elsewhere),
            ("9999 0x0 0x0 0x0 0x0 0x0 0x0 0x1 0x2", Reader::Unknown),
        ] {
            assert_eq!(waits_for(call, &held), expected, "{call}");
        }
    }
}
