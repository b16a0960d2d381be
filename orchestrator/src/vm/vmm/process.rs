//! The process of a VMM: cannot outlive us, is watched so that its end is seen at once, and is
//! killed on drop.
//!
//! Each process has a thread of its own, its supervisor, which starts it (see `launch`), collects its
//! output (see `log`) and reaps it. The thread is necessary: the parent-death signal that ties a child to us is
//! tied to the *thread* that forked it (prctl(2)), and threads of an async runtime come and go. It
//! costs nothing on the warm path, where the process exists already.

mod launch;
mod log;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_send_signal,
    test_kill_process_group, waitid,
};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::sys;
use crate::vm::host_limits;
use crate::vm::vmm::orphan;
use crate::vm::vmm::rundown::{Ending, Rundown};
use crate::vm::vmm::{Exit, VmmError, VmmProcess};

pub(crate) use launch::Launch;
use launch::Spawned;

pub(crate) use crate::vm::vmm::rundown::PROCESS_END_TIMEOUT;

/// Timeout of stopping a process's threads, which takes microseconds. A thread that waits for a
/// disk stops only after that.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of checks whether a process's children are gone, and the pause between them.
const GROUP_ATTEMPTS: usize = 1000;
const GROUP_PAUSE: Duration = Duration::from_millis(1);

/// A running VMM.
#[derive(Debug)]
pub(crate) struct Process {
    handle: Arc<ProcessHandle>,
    /// Whether it is known to be the VMM, and not what started that.
    is_itself: Arc<AtomicBool>,
}

/// A running VMM that belongs to somebody else.
#[derive(Debug)]
struct ProcessHandle {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    death: Ending,
    exit: Ending,
    panicked: watch::Receiver<bool>,
    rundown: Rundown,
}

impl Process {
    /// Starts a process. Keeps the last part of its output; its standard input is empty.
    ///
    /// # Errors
    /// Why it can't be started; the limit that keeps it from that is named.
    pub(crate) async fn start<R: Send + 'static>(launch: Launch<R>) -> io::Result<Self> {
        Self::start_with_supervisor(launch)
            .await
            .map_err(host_limits::of_start)
    }

    async fn start_with_supervisor<R: Send + 'static>(launch: Launch<R>) -> io::Result<Self> {
        let (started, start) = oneshot::channel();
        let (dead, death) = watch::channel(None);
        let (gone, exit) = watch::channel(None);
        let rundown = launch.rundown().clone();
        let mut unless_started = Dying {
            rundown: rundown.clone(),
            ending: Some(exit.clone()),
        };
        std::thread::Builder::new()
            .name("vmm-supervisor".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                // Drops our copies of the child's descriptors with the launch: they would keep its
                // peers from seeing its end.
                let spawned = match launch.spawn() {
                    Ok(spawned) => spawned,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                let Spawned {
                    mut child,
                    mut log,
                    supply,
                    mark,
                    resources,
                } = spawned;
                let is_itself = Arc::new(AtomicBool::new(false));
                let pidfd = Arc::clone(&child.pidfd);
                let process_id = child.number();
                let process = Self {
                    handle: Arc::new(ProcessHandle {
                        pid: process_id,
                        pidfd: Arc::clone(&pidfd),
                        death,
                        exit,
                        panicked: log.panicked(),
                        rundown,
                    }),
                    is_itself: Arc::clone(&is_itself),
                };
                // Nobody waits any more: the process is dropped here, and so killed.
                let _ = started.send(Ok(process));
                if let (Some(requests), Some(file)) = (child.requests.take(), supply)
                    && let Err(error) = requests.answer(file.as_fd(), &pidfd)
                {
                    // The VMM reports the lack of memory itself, and ends.
                    tracing::warn!(%error, "a VMM did not get the file of its memory");
                }
                log.collect_until_the_end_of(&pidfd);
                end_what_is_left_of(process_id, &pidfd);
                let status = match child.wait() {
                    Ok(status) => status.to_string(),
                    Err(error) => format!("unknown: {error}"),
                };
                until_nothing_is_left_of(process_id);
                if let Some(mark) = mark.filter(|_| !is_itself.load(Ordering::Acquire))
                    && let Err(error) = orphan::end_marked(&mark, Instant::now())
                {
                    tracing::warn!(%error, "what a VMM started stays until the next start");
                }
                let (console, words) = log.tails();
                let exit = Exit {
                    status,
                    log: console,
                    words,
                };
                dead.send_replace(Some(exit.clone()));
                drop(resources);
                gone.send_replace(Some(exit));
            })?;
        // The thread forks and executes; it answers or ends.
        let process = start
            .await
            .map_err(|_| io::Error::other("the thread that starts the process ended"))??;
        unless_started.ending = None;
        Ok(process)
    }

    /// Returns a handle for callers that do not own it.
    pub(crate) fn handle(&self) -> Arc<dyn VmmProcess> {
        Arc::clone(&self.handle) as Arc<dyn VmmProcess>
    }

    pub(crate) fn pid(&self) -> u32 {
        self.handle.pid
    }

    /// Sends SIGKILL. The pidfd names this process, never a later one with the same PID.
    pub(crate) fn kill(&self) {
        self.handle.kill();
    }

    /// Stops all of its threads, and returns when they have stopped. A stopped process can still be
    /// killed, and its end is still reported at once.
    ///
    /// Others may stop and continue the process, too: the last signal wins.
    pub(crate) async fn freeze(&self) -> Result<(), VmmError> {
        let operation = "freeze";
        let failed = || VmmError::io(format!("{operation} process {}", self.handle.pid));
        self.signal(Signal::STOP, operation).await?;
        let pidfd = Arc::clone(&self.handle.pidfd);
        // A signal is on its way when it is sent, and each thread stops in its own time. NOWAIT
        // leaves the exit status to the keeper.
        let stopped = spawn_blocking(move || {
            let ends = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::PidFd(pidfd.as_fd()), ends)
        });
        // A stuck process keeps this thread until it is killed, which the caller does on an error.
        match timeout(STOP_TIMEOUT, stopped).await {
            Err(_) => Err(VmmError::TimedOut {
                operation,
                after: STOP_TIMEOUT,
            }),
            Ok(Ok(Ok(Some(status)))) if status.stopped() => Ok(()),
            // It has ended, and may be reaped.
            Ok(Ok(Ok(_) | Err(Errno::CHILD))) => Err(self.gone(operation).await),
            Ok(Ok(Err(error))) => Err(failed()(error.into())),
            Ok(Err(ending)) => Err(failed()(ending.into())),
        }
    }

    /// Continues its threads.
    pub(crate) async fn thaw(&self) -> Result<(), VmmError> {
        self.signal(Signal::CONT, "thaw").await
    }

    async fn signal(&self, signal: Signal, operation: &'static str) -> Result<(), VmmError> {
        match pidfd_send_signal(&self.handle.pidfd, signal) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(self.gone(operation).await),
            Err(error) => {
                let operation = format!("{operation} process {}", self.handle.pid);
                Err(VmmError::io(operation)(error.into()))
            }
        }
    }

    async fn gone(&self, operation: &'static str) -> VmmError {
        let exit = self.end().await;
        VmmError::Died { operation, exit }
    }

    /// Kills it and waits for its end and cleanup, up to [`PROCESS_END_TIMEOUT`]; a stuck process
    /// is reported as such.
    pub(crate) async fn end(&self) -> Exit {
        self.kill();
        let ended = timeout(PROCESS_END_TIMEOUT, self.exited()).await;
        ended.unwrap_or_else(|_| {
            tracing::warn!(
                pid = self.handle.pid,
                "a process was killed and has not ended within {PROCESS_END_TIMEOUT:?}"
            );
            stuck()
        })
    }

    /// Returns whether it is the process `speaker`, which sent a message in its name. If not, kills
    /// both: the speaker may have left the session of this process.
    pub(crate) async fn speaks_itself(&self, speaker: i32) -> bool {
        let speaker = Pid::from_raw(speaker);
        if speaker.is_some() && speaker == sys::pid(self.handle.pid) {
            self.is_itself.store(true, Ordering::Release);
            return true;
        }
        let ours = rustix::process::getpid();
        if let Some(other) = speaker.filter(|other| *other != ours) {
            // May fail because it has just ended.
            let _ = kill_process(other, Signal::KILL);
        }
        self.end().await;
        false
    }

    /// Resolves when the process has ended and its resources are gone.
    pub(crate) fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        told(self.handle.exit.clone())
    }
}

impl VmmProcess for ProcessHandle {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn kill(&self) {
        // ESRCH: it has ended already, which is what was wanted.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.rundown.add(self.exit.clone());
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        Box::pin(told(self.exit.clone()))
    }

    fn died(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        Box::pin(told(self.death.clone()))
    }

    fn panicked(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut panicked = self.panicked.clone();
        Box::pin(async move {
            if panicked.wait_for(|panicked| *panicked).await.is_err() {
                std::future::pending().await
            }
        })
    }
}

/// Returns the report about a process that did not end within [`PROCESS_END_TIMEOUT`] of SIGKILL.
pub(crate) fn stuck() -> Exit {
    Exit {
        status: format!("killed, and not ended within {PROCESS_END_TIMEOUT:?}"),
        log: String::new(),
        words: String::new(),
    }
}

async fn told(mut ending: Ending) -> Exit {
    match ending.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(exit)) => exit.clone(),
        // The supervisor reports before it ends: without a report it has panicked.
        _ => Exit {
            status: "unknown".to_owned(),
            log: String::new(),
            words: String::new(),
        },
    }
}

/// Adds an end to a rundown on drop.
struct Dying {
    rundown: Rundown,
    ending: Option<Ending>,
}

impl Drop for Dying {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            self.rundown.add(ending);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the end of a process, and kills what is left in its session's first process group.
/// Does so before the process is reaped: until then nobody else can get its PID.
fn end_what_is_left_of(number: u32, pidfd: &OwnedFd) {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let wait = || rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), ended);
    if let (Ok(_), Some(group)) = (rustix::io::retry_on_intr(wait), sys::pid(number)) {
        // May fail: a process without children has no such group any more.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Waits until the killed children of a process are gone. They are not our children, so no event
/// reports their end.
fn until_nothing_is_left_of(number: u32) {
    let Some(group) = sys::pid(number) else {
        return;
    };
    for _ in 0..GROUP_ATTEMPTS {
        if test_kill_process_group(group).is_err() {
            return;
        }
        std::thread::sleep(GROUP_PAUSE);
    }
    tracing::warn!(
        group = number,
        "what a VMM started was killed and has not ended"
    );
}

/// Creates a pair of connected sockets: one for us, one for a VMM to inherit. Has no path, nothing
/// to wait for, and nothing to clean up.
pub(crate) fn socket_pair() -> io::Result<(tokio::net::UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs.into()))
}

#[cfg(test)]
mod tests;
