//! The process of a VMM: cannot outlive us, is watched so that its end is seen at once, and is
//! killed on drop.
//!
//! Each process has a thread of its own, its supervisor, which starts it, collects its output (see
//! `log`) and reaps it. The thread is necessary: the parent-death signal that ties a child to us is
//! tied to the *thread* that forked it (prctl(2)), and threads of an async runtime come and go. It
//! costs nothing on the warm path, where the process exists already.

mod log;

use std::fs::File;
use std::io::{self, PipeWriter, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group,
    pidfd_send_signal, test_kill_process_group, waitid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::sys;
use crate::sys::confine::{Confinement, Namespaces, Started, reap};
use crate::sys::supply::Requests;
use crate::vm::host_limits;
use crate::vm::vmm::orphan;
use crate::vm::vmm::run_directory::{Recorded, RunDirectory};
use crate::vm::vmm::rundown::{Ending, Rundown};
use crate::vm::vmm::{Exit, VmmError, VmmProcess};

use log::Log;

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

/// A process to be started, with what it has of the host.
pub(crate) struct Launch<R = ()> {
    command: Command,
    inherited: Vec<OwnedFd>,
    namespace: Option<Arc<OwnedFd>>,
    confinement: Option<Box<Confinement>>,
    supply: Option<OwnedFd>,
    cgroups: Vec<File>,
    run: Option<Arc<RunDirectory>>,
    rundown: Rundown,
    log: Option<OwnedFd>,
    resources: R,
}

impl Launch {
    pub(crate) fn new(command: Command) -> Self {
        Self {
            command,
            inherited: Vec::new(),
            namespace: None,
            confinement: None,
            supply: None,
            cgroups: Vec::new(),
            run: None,
            rundown: Rundown::default(),
            log: None,
            resources: (),
        }
    }

    /// Drops `resources` when it has ended: after [`VmmProcess::died`], before [`Process::exited`].
    pub(crate) fn with<R: Send + 'static>(self, resources: R) -> Launch<R> {
        let Self {
            command,
            inherited,
            namespace,
            confinement,
            supply,
            cgroups,
            run,
            rundown,
            log,
            resources: (),
        } = self;
        Launch {
            command,
            inherited,
            namespace,
            confinement,
            supply,
            cgroups,
            run,
            rundown,
            log,
            resources,
        }
    }
}

impl<R: Send + 'static> Launch<R> {
    /// Leaves `descriptors` open in it under their present numbers.
    pub(crate) fn inherit(mut self, descriptors: Vec<OwnedFd>) -> Self {
        self.inherited = descriptors;
        self
    }

    /// Starts it in a PID namespace, which has to end with us.
    pub(crate) fn in_pid_namespace(mut self, namespace: Arc<OwnedFd>) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Starts it confined. If the confinement is supplied, the first file that the process opens
    /// for reading and writing is `supply`, whatever its path.
    pub(crate) fn confined(mut self, confinement: Confinement, supply: Option<OwnedFd>) -> Self {
        self.confinement = Some(Box::new(confinement));
        self.supply = supply;
        self
    }

    /// Moves it into the control groups with these files as soon as it has started: the kernel
    /// takes 10 ms for the first one, during which the program comes up.
    pub(crate) fn joining(mut self, cgroups: Vec<File>) -> Self {
        self.cgroups = cgroups;
        self
    }

    /// Records it in `run` while it lives, so that a sweep kills it should it outlive us; its end
    /// belongs to that directory's rundown.
    pub(crate) fn recorded_in(mut self, run: Arc<RunDirectory>) -> Self {
        self.rundown = run.rundown().clone();
        self.run = Some(run);
        self
    }

    /// Collects the output of `log`, the reading end of a pipe, as the VMM's own messages, like its
    /// standard error.
    pub(crate) fn logging_to(mut self, log: OwnedFd) -> Self {
        self.log = Some(log);
        self
    }

    /// Starts it as a child of this thread, whose last one it is.
    fn spawn(self) -> io::Result<Spawned<R>> {
        let Self {
            mut command,
            mut inherited,
            namespace,
            confinement,
            supply,
            cgroups,
            run,
            rundown: _,
            log,
            resources,
        } = self;
        sys::lead_session(&mut command);
        let is_tied = match (&confinement, &namespace) {
            (Some(confinement), _) => confinement.namespaces != Namespaces::Ours,
            (None, namespace) => namespace.is_some(),
        };
        // A PID namespace ends with its first process. Without one, children that the process
        // starts, like those of a wrapper script, would outlive us.
        let tie = if is_tied {
            None
        } else {
            let (end, tie) = io::pipe()?;
            let end = OwnedFd::from(end);
            sys::end_group_with(&mut command, &end);
            inherited.push(end);
            Some(tie)
        };
        let mark = run
            .as_ref()
            .map(|run| orphan::mark(run.name(), run.number()));
        if let Some(mark) = &mark {
            command.env(orphan::MARK, mark);
        }
        sys::inherit_only(&mut command, &inherited);
        let start = match (confinement, namespace) {
            (Some(confinement), _) => Start::Confined(confinement),
            (None, None) => {
                sys::bind_to_parent(&mut command);
                Start::Free
            }
            (None, Some(namespace)) => {
                let kind = Some(LinkNameSpaceType::ProcessID);
                move_into_link_name_space(namespace.as_fd(), kind)?;
                Start::Free
            }
        };
        let (child, log) = spawn(command, log, start)?;
        for mut entrance in cgroups {
            write!(entrance, "{}", child.number())?;
        }
        let recorded = run.map(|run| run.record(child.number())).transpose()?;
        Ok(Spawned {
            child,
            log,
            supply,
            mark: mark.filter(|_| tie.is_some()),
            resources: ProcessResources {
                _tie: tie,
                _of_vm: resources,
                _record: recorded,
            },
        })
    }
}

/// The way in which a process is started.
enum Start {
    Free,
    Confined(Box<Confinement>),
}

/// A child that is not reaped yet. Drop kills it, unless [`wait`](Self::wait) has reaped it.
struct Child {
    pid: Option<Pid>,
    pidfd: Arc<OwnedFd>,
    requests: Option<Requests>,
}

impl Child {
    fn new(Started { pid, requests }: Started) -> io::Result<Self> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                pid: Some(pid),
                pidfd: Arc::new(pidfd),
                requests,
            }),
            Err(error) => {
                end(pid);
                Err(error.into())
            }
        }
    }

    fn number(&self) -> u32 {
        self.pid
            .map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        match self.pid.take() {
            Some(pid) => reap(pid),
            None => Err(rustix::io::Errno::CHILD.into()),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            end(pid);
        }
    }
}

/// The resources of a process, released in this order.
struct ProcessResources<R> {
    /// Whose other end tells what the process started that we are there.
    _tie: Option<PipeWriter>,
    _of_vm: R,
    _record: Option<Recorded>,
}

/// A process that was just started.
struct Spawned<R> {
    child: Child,
    log: Log,
    supply: Option<OwnedFd>,
    /// The mark in the environment of its children, if no PID namespace ends them.
    mark: Option<String>,
    resources: ProcessResources<R>,
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
        let rundown = launch.rundown.clone();
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

fn spawn(mut command: Command, log: Option<OwnedFd>, start: Start) -> io::Result<(Child, Log)> {
    let (console, stdout) = io::pipe()?;
    let (words, stderr) = io::pipe()?;
    let log = Log::new(
        console.into(),
        [Some(words.into()), log].into_iter().flatten(),
    )?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // Drops our copies of the pipes' writing ends with the command, or we would never see their
    // end.
    let started = match start {
        Start::Confined(confinement) => confinement.spawn(command)?,
        Start::Free => {
            let number = command.spawn()?.id();
            let pid = sys::pid(number).ok_or(Errno::SRCH)?;
            Started {
                pid,
                requests: None,
            }
        }
    };
    Ok((Child::new(started)?, log))
}

fn end(child: Pid) {
    // May fail because it has ended; it is our child, so its PID is not reused before we reap it.
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = reap(child);
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
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::vm::vmm::run_directory::RunPath;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn is_alive(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn the_end_is_reported_with_the_last_lines() {
        let process = Process::start(Launch::new(shell("echo out; echo err >&2; exit 3")))
            .await
            .unwrap();
        let exit = process.exited().await;
        assert_eq!(exit.status, "exit status: 3");
        assert!(
            exit.log.contains("out") && exit.words.contains("err"),
            "{exit}"
        );
    }

    #[tokio::test]
    async fn a_dropped_process_is_killed_and_reaped() {
        let process = Process::start(Launch::new(shell("exec sleep 1000")))
            .await
            .unwrap();
        let (pid, exited) = (process.pid(), process.exited());
        assert!(is_alive(pid));
        drop(process);
        assert!(exited.await.status.contains("SIGKILL"));
        assert!(!is_alive(pid));
    }

    #[tokio::test]
    async fn children_of_a_process_end_with_it() {
        for end in ["exit 0", "kill -9 $$"] {
            let script = format!("sleep 1000 >/dev/null 2>&1 & echo $!; {end}");
            let process = Process::start(Launch::new(shell(&script))).await.unwrap();
            let started = process.exited().await.log.trim().parse().unwrap();
            let gone = async {
                while is_alive(started) {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PROCESS_END_TIMEOUT, gone).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_drop_can_be_waited_for_together_with_what_belonged_to_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let root = tempfile::tempdir().unwrap();
        let run = RunPath::open(root.path()).unwrap();
        let launch = Launch::new(shell("exec sleep 1000")).recorded_in(run.directory().unwrap());
        let process = Process::start(launch.with(directory)).await.unwrap();
        let pid = process.pid();
        drop(process);
        run.rundown().ended().await;
        assert!(!is_alive(pid));
        assert!(!path.exists());
        // Also if nobody waited for its start.
        let launch = Launch::new(shell("exec sleep 1000")).recorded_in(run.directory().unwrap());
        let mut start = Box::pin(Process::start(launch));
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(start.as_mut().poll(cx)));
        assert!(now.await.is_pending());
        drop(start);
        run.rundown().ended().await;
        let run = run.directory().unwrap();
        assert_eq!(orphan::marked(run.name()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_death_is_told_before_what_belonged_to_the_process_is_gone() {
        struct Belonging(std::sync::mpsc::Receiver<()>);
        impl Drop for Belonging {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        let (go, belonging) = std::sync::mpsc::channel();
        let launch = Launch::new(shell("exit 3")).with(Belonging(belonging));
        let process = Process::start(launch).await.unwrap();
        let exit = timeout(PROCESS_END_TIMEOUT, process.handle().died())
            .await
            .unwrap();
        assert_eq!(exit.status, "exit status: 3");
        let mut exited = std::pin::pin!(process.exited());
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(exited.as_mut().poll(cx)));
        assert!(now.await.is_pending());
        drop(go);
        assert_eq!(timeout(PROCESS_END_TIMEOUT, exited).await.unwrap(), exit);
    }

    /// Returns the process's state in /proc: `T` is stopped, `S` sleeps.
    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    #[tokio::test]
    async fn a_frozen_process_has_stopped_until_it_is_thawed_or_killed() {
        let process = Process::start(Launch::new(shell("exec sleep 1000"))).await;
        let process = process.unwrap();
        for _ in 0..2 {
            process.freeze().await.unwrap();
            assert_eq!(state(process.pid()), 'T');
        }
        // Pending until the process continues; then it ends, and its supervisor learns of it.
        pidfd_send_signal(&process.handle.pidfd, Signal::TERM).unwrap();
        assert_eq!(state(process.pid()), 'T');
        process.thaw().await.unwrap();
        let exit = timeout(PROCESS_END_TIMEOUT, process.exited())
            .await
            .unwrap();
        assert!(exit.status.contains("SIGTERM"), "{exit}");

        let process = Process::start(Launch::new(shell("exec sleep 1000"))).await;
        let process = process.unwrap();
        process.freeze().await.unwrap();
        process.kill();
        let exit = timeout(PROCESS_END_TIMEOUT, process.handle().died())
            .await
            .unwrap();
        assert!(exit.status.contains("SIGKILL"), "{exit}");
    }

    #[tokio::test]
    async fn a_process_that_has_ended_can_neither_be_frozen_nor_thawed() {
        let process = Process::start(Launch::new(shell("exit 3"))).await.unwrap();
        process.exited().await;
        for refused in [process.freeze().await, process.thaw().await] {
            let Err(VmmError::Died { exit, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(exit.status, "exit status: 3");
        }
    }

    #[tokio::test]
    async fn a_death_while_a_process_is_being_frozen_ends_the_wait() {
        let process = Process::start(Launch::new(shell("exec sleep 1000"))).await;
        let process = process.unwrap();
        // Either may come first.
        let both = async { tokio::join!(process.freeze(), async { process.kill() }).0 };
        let frozen = timeout(STOP_TIMEOUT, both).await.unwrap();
        assert!(
            matches!(frozen, Ok(()) | Err(VmmError::Died { .. })),
            "{frozen:?}"
        );
        let exit = timeout(PROCESS_END_TIMEOUT, process.handle().died())
            .await
            .unwrap();
        assert!(exit.status.contains("SIGKILL"), "{exit}");
    }

    /// Set for the child process that the test kills; names its directory.
    const KILLED: &str = "IRONCLAW_TEST_KILLED";

    #[tokio::test]
    async fn children_of_a_wrapper_script_die_with_us_and_hidden_ones_with_the_next_sweep() {
        if let Some(root) = std::env::var_os(KILLED) {
            let path = RunPath::open(root.as_ref()).unwrap();
            let script = "sleep 1000 & setsid sleep 1001 & echo $!; wait";
            let launch = Launch::new(shell(script)).recorded_in(path.directory().unwrap());
            let _process = Process::start(launch).await.unwrap();
            std::future::pending::<()>().await;
        }
        let root = tempfile::tempdir().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let mut killed = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .env(KILLED, root.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let up = async {
            loop {
                let owner = owner_in(root.path());
                if let Some(owner) = owner.filter(|owner| sleeping(owner) == 2) {
                    return owner;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let owner = timeout(PROCESS_END_TIMEOUT, up).await.unwrap();
        killed.kill().unwrap();
        killed.wait().unwrap();
        let dead = async {
            while sleeping(&owner) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PROCESS_END_TIMEOUT, dead).await.unwrap();
        RunPath::open(root.path()).unwrap().prepare().unwrap();
        assert_eq!(sleeping(&owner), 0);
    }

    fn owner_in(root: &std::path::Path) -> Option<String> {
        let entry = std::fs::read_dir(root).unwrap().next()?.unwrap();
        Some(entry.file_name().into_string().unwrap())
    }

    /// Counts the sleeping processes with a mark of `owner`.
    fn sleeping(owner: &str) -> usize {
        let marked = orphan::marked(owner).unwrap();
        let called = marked.filter_map(|(process, _)| process.program().ok());
        called.filter(|program| program == "sleep").count()
    }

    #[tokio::test]
    async fn children_that_left_a_script_s_session_end_with_it_unless_it_is_a_known_vmm() {
        let root = tempfile::tempdir().unwrap();
        let path = RunPath::open(root.path()).unwrap();
        let run = path.directory().unwrap();
        let start = async || {
            let launch = Launch::new(shell("setsid sleep 1000 & echo; wait"));
            let process = Process::start(launch.recorded_in(Arc::clone(&run)));
            let process = process.await.unwrap();
            let up = async {
                while sleeping(run.name()) == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(PROCESS_END_TIMEOUT, up).await.unwrap();
            process
        };
        start().await.end().await;
        assert_eq!(sleeping(run.name()), 0);
        let another = start().await;
        assert!(!another.speaks_itself(0).await);
        assert_eq!(sleeping(run.name()), 0);
        // Searching takes time, which the end of a known VMM must not cost.
        let known = start().await;
        assert!(
            known
                .speaks_itself(i32::try_from(known.pid()).unwrap())
                .await
        );
        known.end().await;
        assert_eq!(sleeping(run.name()), 1);
        orphan::end_marked(run.name(), Instant::now()).unwrap();
        assert_eq!(sleeping(run.name()), 0);
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let error = Process::start(Launch::new(Command::new("/no/such/vmm")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn process_output_is_bounded_and_has_no_escapes() {
        let script = "printf '\\033[2Jstart'; head -c 100000 /dev/zero | tr '\\0' x; printf end";
        let exit = Process::start(Launch::new(shell(script)))
            .await
            .unwrap()
            .exited()
            .await;
        assert!(exit.log.len() <= log::CONSOLE_BYTES && exit.log.ends_with("end"));
        let exit = Process::start(Launch::new(shell("printf '\\033[2Jx'")))
            .await
            .unwrap();
        assert_eq!(exit.exited().await.log, "[2Jx");
    }

    #[tokio::test]
    async fn a_noisy_guest_does_not_push_out_what_its_vmm_says() {
        let (log, mut writer) = io::pipe().unwrap();
        writer.write_all(b"the log\n").unwrap();
        drop(writer);
        let script = "echo the panic >&2; head -c 300000 /dev/zero | tr '\\0' x; exit 1";
        let launch = Launch::new(shell(script)).logging_to(log.into());
        let exit = Process::start(launch).await.unwrap().exited().await;
        let words = exit.words;
        assert_eq!(exit.log.len(), log::CONSOLE_BYTES);
        assert!(
            words.contains("the log") && words.contains("the panic"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn the_end_is_seen_although_a_child_holds_the_output_open() {
        // In another session, or it would be killed with the process.
        let up = tempfile::NamedTempFile::new().unwrap();
        let up = up.path().display();
        let child = format!("setsid sh -c 'echo $$; echo >{up}; exec sleep 1000' &");
        let script = format!("{child} until [ -s {up} ]; do :; done; exit 3");
        let process = Process::start(Launch::new(shell(&script)));
        let process = process.await.unwrap();
        let exit = timeout(PROCESS_END_TIMEOUT, process.exited())
            .await
            .unwrap();
        let child = sys::pid(exit.log.trim().parse().unwrap()).unwrap();
        kill_process(child, Signal::KILL).unwrap();
        assert_eq!(exit.status, "exit status: 3");
    }

    #[tokio::test]
    async fn an_inherited_descriptor_is_open_under_its_number() {
        use std::os::fd::AsRawFd;
        use tokio::io::AsyncReadExt;
        let (mut ours, theirs) = socket_pair().unwrap();
        // Not /bin/sh: dash treats a redirection to a descriptor of two digits as a syntax error.
        let mut command = Command::new("/bin/bash");
        command.args(["-c", &format!("echo hello >&{}", theirs.as_raw_fd())]);
        let _process = Process::start(Launch::new(command).inherit(vec![theirs]))
            .await
            .unwrap();
        let mut heard = String::new();
        ours.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello\n");
    }
}
