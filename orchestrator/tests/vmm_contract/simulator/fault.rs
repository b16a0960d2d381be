//! Faults, planned by a test and met by the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

/// How long a fault may take to strike that a test waits for.
const STRIKES: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The process is killed before it answers.
    Die,
    /// The process is killed after its answer.
    DieAfterAnswer,
    /// There is no answer, ever.
    Hang,
    /// The answer is a 400 with this message; a start ends with it, and nobody in the guest listens.
    Refuse(String),
    /// The answer takes this many milliseconds.
    Slow(u64),
    /// The answer ends in its middle, and the connection with it.
    Truncate,
    /// The answer is out of protocol.
    Garbage,
    /// The answer never ends.
    Endless,
    /// The guest says that it sends the longest frame that there could be, in place of what it
    /// has to say.
    Oversized,
}

/// A simulator's directory: the binary, its version, and the faults that wait for it.
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

    /// Claims to be another version.
    pub(crate) fn claim(&self, version: &str) {
        fs::write(self.file("version"), version).unwrap();
    }

    pub(super) fn version(&self) -> String {
        fs::read_to_string(self.file("version")).unwrap_or_else(|_| super::VERSION.to_owned())
    }

    /// Lets `fault` strike once, at the next call `at`: [`START`](super::START), a method and a
    /// path (and the state that is asked for), [`CONNECT`](super::CONNECT) or
    /// [`GUEST`](super::GUEST).
    pub(crate) fn inject(&self, at: &str, fault: Fault) {
        let number = self.planned.fetch_add(1, Ordering::Relaxed);
        let plan = Plan {
            at: at.to_owned(),
            fault,
        };
        let path = self.file(&format!("fault-{number}"));
        // Complete before it has its name: processes look at any moment.
        let new = self.file("new");
        fs::write(&new, serde_json::to_vec(&plan).unwrap()).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// How many faults have not struck.
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
                let ready = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&STRIKES));
                assert_eq!(ready.unwrap(), 1, "a fault did not strike");
                rustix::io::read(&watch, &mut [0; 4096]).unwrap();
            });
            deleted.await.unwrap();
        }
    }

    /// The fault that strikes at a call, if one does. Those that end or delay do it in here.
    pub(super) fn strike(&self, at: &str) -> Option<Fault> {
        let fault = self.plans().find_map(|path| {
            let plan: Plan = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            // Of several processes, one is struck.
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

/// Ends this process as the kernel ends one that is out of memory.
pub(super) fn die() -> ! {
    let us = rustix::process::getpid();
    let _ = rustix::process::kill_process(us, rustix::process::Signal::KILL);
    unreachable!("SIGKILL came and went")
}
