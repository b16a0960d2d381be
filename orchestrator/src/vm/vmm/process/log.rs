//! Keeps the last output of a VMM: the guest's console, and the VMM's own messages.
//!
//! The two are separate, so that a guest that prints without end can't displace the reason why its
//! VMM died.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::OwnedFd;

use memchr::memmem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use tokio::sync::watch;

use crate::untrusted;

/// Bytes kept of the console, which is standard output: enough for a kernel panic.
pub(super) const CONSOLE_BYTES: usize = 16 << 10;
/// Bytes kept of the VMM's messages.
const MESSAGE_BYTES: usize = 8 << 10;
/// The end of Linux's report of a panic after which it halts (kernel/panic.c).
const PANICKED: &[u8] = b"---[ end Kernel panic - not syncing";
/// The size of a read.
const CHUNK_BYTES: usize = 4096;
/// Pause between two reads of a pipe. Without it, a guest that prints byte by byte would determine
/// how often it is read, and keep a processor of the host busy beside its own.
const READ_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};
/// Limit of the chunks read from one pipe after the process's end, more than a pipe holds
/// (`pipe-max-size`, pipe(7)): another process that has it open may go on writing.
const MAX_CHUNKS_LEFT: usize = (1 << 20) / CHUNK_BYTES + 1;

/// Collects the output of a process.
#[derive(Debug)]
pub(super) struct Log {
    console: Ring,
    words: Ring,
    pipes: Vec<Pipe>,
    /// Set when the console reports a panic.
    panicked: watch::Sender<bool>,
}

/// A buffer of the last bytes written to it.
#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    most: usize,
}

#[derive(Debug)]
struct Pipe {
    reader: File,
    is_console: bool,
}

impl Log {
    /// Creates a log of the output of these pipes.
    pub(super) fn new(
        console: OwnedFd,
        words: impl IntoIterator<Item = OwnedFd>,
    ) -> io::Result<Self> {
        let mut pipes = vec![Pipe::new(console, true)?];
        for pipe in words {
            pipes.push(Pipe::new(pipe, false)?);
        }
        Ok(Self {
            console: Ring::new(CONSOLE_BYTES),
            words: Ring::new(MESSAGE_BYTES),
            pipes,
            panicked: watch::Sender::new(false),
        })
    }

    /// Becomes true when the guest's kernel has reported on the console that it panicked and
    /// halted. A guest can print that, too, so it is only evidence for want of better.
    pub(super) fn panicked(&self) -> watch::Receiver<bool> {
        self.panicked.subscribe()
    }

    /// Blocks until the process ends, then takes what is left in the pipes. Does not wait for the
    /// pipes' end: children of the process may keep them open for longer.
    pub(super) fn collect_until_the_end_of(&mut self, process: &OwnedFd) {
        loop {
            let mut polled: Vec<_> = [PollFd::new(process, PollFlags::IN)]
                .into_iter()
                .chain(
                    self.pipes
                        .iter()
                        .map(|pipe| PollFd::new(&pipe.reader, PollFlags::IN)),
                )
                .collect();
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "what a VMM prints is lost");
                    return;
                }
            }
            let ready: Vec<_> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                return self.read(MAX_CHUNKS_LEFT, |_| true);
            }
            // Not the other pipes: a named pipe that nobody has opened yet looks closed.
            self.read(1, |pipe| ready[pipe + 1]);
            // Returns at once if the process ends during the pause.
            let _ = poll(
                &mut [PollFd::new(process, PollFlags::IN)],
                Some(&READ_INTERVAL),
            );
        }
    }

    /// Reads up to `chunks` chunks of the selected pipes, and drops pipes at their end.
    fn read(&mut self, chunks: usize, of: impl Fn(usize) -> bool) {
        let Self {
            console,
            words,
            pipes,
            panicked,
        } = self;
        let mut index = 0..;
        pipes.retain_mut(|pipe| {
            let ring = if pipe.is_console {
                &mut *console
            } else {
                &mut *words
            };
            let chunks = if index.next().is_some_and(&of) {
                chunks
            } else {
                0
            };
            (0..chunks).try_for_each(|_| pipe.read_into(ring)) != Err(End::Closed)
        });
        if !*panicked.borrow() && console.contains(PANICKED) {
            panicked.send_replace(true);
        }
    }

    /// Returns the last lines of the console and of the VMM's messages, sanitized for display.
    pub(super) fn tails(&mut self) -> (String, String) {
        (self.console.text(), self.words.text())
    }
}

/// The reason why a pipe has no more to read.
#[derive(Debug, PartialEq, Eq)]
enum End {
    ForNow,
    Closed,
}

impl Pipe {
    fn new(reader: OwnedFd, is_console: bool) -> io::Result<Self> {
        ioctl_fionbio(&reader, true)?;
        Ok(Self {
            reader: reader.into(),
            is_console,
        })
    }

    fn read_into(&mut self, ring: &mut Ring) -> Result<(), End> {
        let mut chunk = [0; CHUNK_BYTES];
        match self.reader.read(&mut chunk) {
            Ok(0) => Err(End::Closed),
            Ok(read) => {
                ring.push(&chunk[..read]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(End::ForNow),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(End::Closed),
        }
    }
}

impl Ring {
    fn new(most: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            most,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(self.most);
        self.bytes.drain(..excess);
    }

    fn contains(&mut self, text: &[u8]) -> bool {
        memmem::find(self.bytes.make_contiguous(), text).is_some()
    }

    fn text(&mut self) -> String {
        untrusted::lines(&String::from_utf8_lossy(self.bytes.make_contiguous()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    /// Returns how many system calls this thread has made that read.
    fn reads() -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("syscr: "));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn a_guest_that_prints_byte_by_byte_does_not_choose_how_often_it_is_read() {
        let (console, stdout) = io::pipe().unwrap();
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=1", "count=100000"]);
        command.stdout(stdout).stderr(Stdio::null());
        let mut guest = command.spawn().unwrap();
        drop(command);
        let pidfd = pidfd_open(Pid::from_child(&guest), PidfdFlags::empty()).unwrap();
        let mut log = Log::new(console.into(), []).unwrap();
        let (start, before) = (Instant::now(), reads());
        log.collect_until_the_end_of(&pidfd);
        let reads = u128::from(reads() - before);
        // One per millisecond, and those that drain the pipes.
        let most = start.elapsed().as_millis() + MAX_CHUNKS_LEFT as u128 + 10;
        guest.wait().unwrap();
        assert_eq!(log.console.bytes.len(), CONSOLE_BYTES);
        assert!(reads < most, "{reads} reads of 100000 bytes");
    }
}
