//! Faults planned by a test for the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

/// Timeout of a fault that a test waits for.
const STRIKE_TIMEOUT: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The process is killed before it answers.
    Die,
    /// The process is killed after its answer.
    DieAfterAnswer,
    /// No answer, ever.
    Hang,
    /// The answer is a 400 with this message; a start ends with it, and nobody in the guest
    /// listens.
    Refuse(String),
    /// The answer takes this many milliseconds.
    Slow(u64),
    /// The answer is cut in the middle, and the connection closed.
    Truncate,
    /// The answer violates the protocol.
    Garbage,
    /// The answer never ends.
    Endless,
    /// The guest announces a frame of maximum length in place of its message.
    Oversized,
}

/// A simulator's directory: the binary, its version, and the planned faults.
#[derive(Debug)]
pub(crate) struct Simulator {
    binary: PathBuf,
    planned: AtomicU32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    at: String,
    fault: Fault,
}

impl Simulator {
    pub(super) fn at(binary: PathBuf) -> Self {
        Self {
            binary,
            planned: AtomicU32::new(0),
        }
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    fn file(&self, name: &str) -> PathBuf {
        self.binary.with_file_name(name)
    }

    /// Pretends to be another version.
    pub(crate) fn claim(&self, version: &str) {
        fs::write(self.file("version"), version).unwrap();
    }

    pub(super) fn version(&self) -> String {
        fs::read_to_string(self.file("version")).unwrap_or_else(|_| super::VERSION.to_owned())
    }

    /// Lets `fault` strike once, at the next call `at`: [`START`](super::START), a method and a
    /// path (and the requested state), [`CONNECT`](super::CONNECT) or [`GUEST`](super::GUEST).
    pub(crate) fn inject(&self, at: &str, fault: Fault) {
        let number = self.planned.fetch_add(1, Ordering::Relaxed);
        let plan = Plan {
            at: at.to_owned(),
            fault,
        };
        let path = self.file(&format!("fault-{number}"));
        // Complete before the rename: processes read it at any moment.
        let new = self.file("new");
        fs::write(&new, serde_json::to_vec(&plan).unwrap()).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// Returns how many faults have not struck yet.
    pub(crate) fn waiting(&self) -> usize {
        self.plans().count()
    }

    fn plans(&self) -> impl Iterator<Item = PathBuf> {
        let directory = fs::read_dir(self.binary.parent().unwrap()).unwrap();
        directory.map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("fault-")
        })
    }

    /// Waits until all faults have struck.
    pub(crate) async fn struck(&self) {
        let watch = init(CreateFlags::CLOEXEC).unwrap();
        add_watch(&watch, self.binary.parent().unwrap(), WatchFlags::DELETE).unwrap();
        let watch = Arc::new(watch);
        while self.waiting() > 0 {
            let watch = Arc::clone(&watch);
            let deleted = spawn_blocking(move || {
                let ready = poll(
                    &mut [PollFd::new(&watch, PollFlags::IN)],
                    Some(&STRIKE_TIMEOUT),
                );
                assert_eq!(ready.unwrap(), 1, "a fault did not strike");
                rustix::io::read(&watch, &mut [0; 4096]).unwrap();
            });
            deleted.await.unwrap();
        }
    }

    /// Returns the fault that strikes at a call, if any. Executes here those that end or delay the
    /// process.
    pub(super) fn strike(&self, at: &str) -> Option<Fault> {
        let fault = self.plans().find_map(|path| {
            let plan: Plan = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            // Of several processes, one gets it.
            (plan.at == at && fs::remove_file(&path).is_ok()).then_some(plan.fault)
        })?;
        match fault {
            Fault::Die => die(),
            Fault::Hang => loop {
                std::thread::park();
            },
            Fault::Slow(milliseconds) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                None
            }
            other => Some(other),
        }
    }
}

/// Ends this process as the kernel does when it is out of memory.
pub(super) fn die() -> ! {
    let us = rustix::process::getpid();
    let _ = rustix::process::kill_process(us, rustix::process::Signal::KILL);
    unreachable!("SIGKILL came and went")
}
