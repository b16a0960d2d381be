//! A process to be started, and its start.

use std::fs::File;
use std::io::{self, PipeWriter, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::log::Log;
use crate::sys;
use crate::sys::confine::{Confinement, Namespaces, Started, reap};
use crate::sys::program::{Inheritance, Program};
use crate::sys::supply::Requests;
use crate::vm::vmm::orphan;
use crate::vm::vmm::run_directory::{Recorded, RunDirectory};
use crate::vm::vmm::rundown::Rundown;

/// A process to be started, with what it has of the host.
pub(crate) struct Launch<R = ()> {
    setup: Setup,
    resources: R,
}

/// What a process is started with.
struct Setup {
    way: Way,
    inherited: Vec<OwnedFd>,
    namespace: Option<Arc<OwnedFd>>,
    supply: Option<OwnedFd>,
    cgroups: Vec<File>,
    run: Option<Arc<RunDirectory>>,
    rundown: Rundown,
    log: Option<OwnedFd>,
}

/// The way in which a process is started.
enum Way {
    /// By a child that shares our memory until then.
    Shared(Program),
    /// By a copy of this process, which confines itself.
    Forked(Command, Box<Confinement>),
}

impl Launch {
    /// Starts `program` as it is.
    pub(crate) fn new(program: Program) -> Self {
        Self::by(Way::Shared(program))
    }

    /// Starts `command` confined. If the confinement is supplied, the first file that the process
    /// opens for reading and writing is `supply`, whatever its path.
    pub(crate) fn confined(
        command: Command,
        confinement: Confinement,
        supply: Option<OwnedFd>,
    ) -> Self {
        let mut launch = Self::by(Way::Forked(command, Box::new(confinement)));
        launch.setup.supply = supply;
        launch
    }

    fn by(way: Way) -> Self {
        let setup = Setup {
            way,
            inherited: Vec::new(),
            namespace: None,
            supply: None,
            cgroups: Vec::new(),
            run: None,
            rundown: Rundown::default(),
            log: None,
        };
        Self {
            setup,
            resources: (),
        }
    }

    /// Drops `resources` when it has ended: after [`VmmProcess::died`](crate::vm::vmm::VmmProcess),
    /// before [`Process::exited`](super::Process::exited).
    pub(crate) fn with<R: Send + 'static>(self, resources: R) -> Launch<R> {
        Launch {
            setup: self.setup,
            resources,
        }
    }
}

impl<R: Send + 'static> Launch<R> {
    /// Leaves `descriptors` open in it under their present numbers.
    pub(crate) fn inherit(mut self, descriptors: Vec<OwnedFd>) -> Self {
        self.setup.inherited = descriptors;
        self
    }

    /// Starts it in a PID namespace, which has to end with us.
    pub(crate) fn in_pid_namespace(mut self, namespace: Arc<OwnedFd>) -> Self {
        self.setup.namespace = Some(namespace);
        self
    }

    /// Moves it into the control groups with these files as soon as it has started: the kernel
    /// takes 10 ms for the first one, during which the program comes up.
    pub(crate) fn joining(mut self, cgroups: Vec<File>) -> Self {
        self.setup.cgroups = cgroups;
        self
    }

    /// Records it in `run` while it lives, so that a sweep kills it should it outlive us; its end
    /// belongs to that directory's rundown.
    pub(crate) fn recorded_in(mut self, run: Arc<RunDirectory>) -> Self {
        self.setup.rundown = run.rundown().clone();
        self.setup.run = Some(run);
        self
    }

    /// Collects the output of `log`, the reading end of a pipe, as the VMM's own messages, like its
    /// standard error.
    pub(crate) fn logging_to(mut self, log: OwnedFd) -> Self {
        self.setup.log = Some(log);
        self
    }

    pub(super) fn rundown(&self) -> &Rundown {
        &self.setup.rundown
    }

    /// Starts it as a child of this thread, whose last one it is.
    pub(super) fn spawn(self) -> io::Result<Spawned<R>> {
        let Self { setup, resources } = self;
        let Setup {
            way,
            mut inherited,
            namespace,
            supply,
            cgroups,
            run,
            rundown: _,
            log,
        } = setup;
        let is_tied = match &way {
            Way::Shared(_) => namespace.is_some(),
            Way::Forked(_, confinement) => confinement.namespaces != Namespaces::Ours,
        };
        // A PID namespace ends with its first process. Without one, children that the process
        // starts, like those of a wrapper script, would outlive us.
        let tie = if is_tied {
            None
        } else {
            let (end, tie) = io::pipe()?;
            inherited.push(end.into());
            Some(tie)
        };
        let end = inherited.last().filter(|_| tie.is_some());
        let mark = run
            .as_ref()
            .map(|run| orphan::mark(run.name(), run.number()));
        let (console, stdout) = io::pipe()?;
        let (words, stderr) = io::pipe()?;
        let log = Log::new(
            console.into(),
            [Some(words.into()), log].into_iter().flatten(),
        )?;
        // Ends with our copies of the child's descriptors dropped: of the pipes we would never see
        // the end.
        let started = match way {
            Way::Shared(mut program) => {
                if let Some(mark) = &mark {
                    program.env(orphan::MARK, mark);
                }
                if let Some(namespace) = &namespace {
                    let kind = Some(LinkNameSpaceType::ProcessID);
                    move_into_link_name_space(namespace.as_fd(), kind)?;
                }
                let pid = program.spawn(Inheritance {
                    stdout: stdout.as_fd(),
                    stderr: stderr.as_fd(),
                    descriptors: &inherited,
                    tie: end.map(OwnedFd::as_fd),
                    ends_with_thread: namespace.is_none(),
                })?;
                Started {
                    pid,
                    requests: None,
                }
            }
            Way::Forked(mut command, confinement) => {
                command
                    .stdin(Stdio::null())
                    .stdout(stdout)
                    .stderr(stderr)
                    .envs(mark.iter().map(|mark| (orphan::MARK, mark)));
                sys::lead_session(&mut command);
                if let Some(end) = end {
                    sys::end_group_with(&mut command, end);
                }
                sys::inherit_only(&mut command, &inherited);
                confinement.spawn(command)?
            }
        };
        let child = Child::new(started)?;
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

/// A child that is not reaped yet. Drop kills it, unless [`wait`](Self::wait) has reaped it.
pub(super) struct Child {
    pid: Option<Pid>,
    pub(super) pidfd: Arc<OwnedFd>,
    pub(super) requests: Option<Requests>,
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

    pub(super) fn number(&self) -> u32 {
        self.pid
            .map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    pub(super) fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        match self.pid.take() {
            Some(pid) => reap(pid),
            None => Err(Errno::CHILD.into()),
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

fn end(child: Pid) {
    // May fail because it has ended; it is our child, so its PID is not reused before we reap it.
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = reap(child);
}

/// The resources of a process, released in this order.
pub(super) struct ProcessResources<R> {
    /// Whose other end tells what the process started that we are there.
    _tie: Option<PipeWriter>,
    _of_vm: R,
    _record: Option<Recorded>,
}

/// A process that was just started.
pub(super) struct Spawned<R> {
    pub(super) child: Child,
    pub(super) log: Log,
    pub(super) supply: Option<OwnedFd>,
    /// The mark in the environment of its children, if no PID namespace ends them.
    pub(super) mark: Option<String>,
    pub(super) resources: ProcessResources<R>,
}
