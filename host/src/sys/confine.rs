//! Starts a program with as few rights on the host as the kernel can take away from it.
//!
//! All of it happens in the child, between fork and exec, where only async-signal-safe calls are
//! sound: whatever allocates is prepared beforehand, in a [`Confinement`].
//!
//! ```text
//! this thread ── fork ──▶ intermediate ── clone3(CLONE_PARENT, namespaces) ──▶ the program
//!      │                        └─ exits at once                                │ user namespace, root,
//!      └──────────────── parent of both ────────────────────────────────────────┘ limits, user, filters
//! ```
//!
//! A PID namespace needs a new process as its first member. `CLONE_PARENT` makes that one a child
//! of ours, not of the intermediate process: we can wait for it, and its parent-death signal is
//! about us.

mod landlock;
mod namespaces;
mod report;
mod root;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::supply;
use crate::host_limits;

pub use landlock::landlock_version;
use landlock::restrict;
pub use namespaces::Namespaces;
use namespaces::fork_into;
pub use report::Stage;
use report::{Report, end_with_parent, read};
pub use root::{Root, Step};

/// The confinement of a program.
#[derive(Debug, Default)]
pub struct Confinement {
    /// The namespaces that it runs in.
    pub namespaces: Namespaces,
    /// Its root directory, if not ours. Needs namespaces of its own.
    pub root: Option<Root>,
    /// Hard resource limits.
    pub limits: Vec<(Resource, u64)>,
    /// The user and group that it runs as, if not ours.
    pub user: Option<(Uid, Gid)>,
    /// Whether to drop all capabilities, and every way to regain any.
    pub unprivileged: bool,
    /// A Landlock ruleset, which restricts its access to files.
    pub landlock: Option<OwnedFd>,
    /// A seccomp filter of its system calls.
    pub filter: seccompiler::BpfProgram,
    /// Whether we supply the first file that it opens for reading and writing.
    pub is_supplied: bool,
}

/// A program that was started.
pub struct Started {
    /// Its PID. It is a child of ours, which has to be reaped.
    pub pid: Pid,
    /// Its requests for a file, if one is supplied.
    pub requests: Option<supply::Requests>,
}

/// The error with which a trial ends that succeeded: no program is executed.
const TRIED: Errno = Errno::CANCELED;

impl Confinement {
    /// Starts `command` confined, as a child of this *thread*: it is killed when the thread ends.
    pub fn spawn(self, command: Command) -> io::Result<Started> {
        self.start(command, false)
    }

    /// Tries everything but the exec of a program.
    pub fn try_out(self) -> io::Result<()> {
        let tried = std::thread::Builder::new().spawn(move || {
            // Never executed. An existing path avoids an error about a missing program.
            self.start(Command::new("/"), true)
        })?;
        match tried.join() {
            Ok(Err(error)) if error.raw_os_error() == Some(TRIED.raw_os_error()) => Ok(()),
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Err(io::Error::other("the trial did not end as it should")),
        }
    }

    fn start(self, mut command: Command, is_trial: bool) -> io::Result<Started> {
        let (report, told) = io::pipe()?;
        let (ours, theirs) = if self.is_supplied {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            (Some(ours), Some(theirs))
        } else {
            (None, None)
        };
        let has_namespaces = self.namespaces != Namespaces::Ours;
        let told: OwnedFd = told.into();
        let prepare = move || -> io::Result<()> {
            let report = Report(told.as_fd());
            let done = self.enter(report, theirs.as_ref().map(std::os::fd::AsFd::as_fd));
            let done = done.and(if is_trial { Err((None, TRIED)) } else { Ok(()) });
            done.map_err(|(stage, errno)| {
                if let Some(stage) = stage {
                    report.failed(stage);
                }
                errno.into()
            })
        };
        // SAFETY: `prepare` runs between fork and exec, where only async-signal-safe work is
        // sound: `enter` makes system calls with what was prepared before, and neither allocates
        // nor locks; an `io::Error` of an error number allocates nothing either.
        unsafe { command.pre_exec(prepare) };
        let spawned = command.spawn();
        // Closes our copies of the child's ends.
        drop(command);
        let (first, stage) = read(report)?;
        let inner = first.or_else(|| match &spawned {
            Ok(child) if !has_namespaces => super::pid(child.id()),
            _ => None,
        });
        match spawned {
            Err(error) => {
                if let Some(pid) = inner {
                    let _ = reap(pid);
                }
                Err(explained(error, stage))
            }
            Ok(intermediate) => {
                if has_namespaces && let Some(pid) = super::pid(intermediate.id()) {
                    reap(pid)?;
                }
                let pid = inner.ok_or_else(|| io::Error::other("it was not told which process"))?;
                let requests = ours.map(|socket| supply::Requests::receive(socket.as_fd()));
                match requests.transpose() {
                    Ok(requests) => Ok(Started { pid, requests }),
                    Err(error) => {
                        let _ = rustix::process::kill_process(pid, Signal::KILL);
                        let _ = reap(pid);
                        Err(error)
                    }
                }
            }
        }
    }

    /// Runs in the child. Changes only what was asked for.
    fn enter(&self, report: Report<'_>, handoff: Option<BorrowedFd<'_>>) -> Result<(), Failed> {
        if self.namespaces != Namespaces::Ours {
            fork_into(self.namespaces.flags(), report).map_err(at(Stage::Namespaces))?;
            // `Command` made the intermediate process a session leader, not this one.
            let _ = rustix::process::setsid();
            rustix::system::sethostname(b"ironclaw").map_err(at(Stage::Namespaces))?;
        }
        if let Namespaces::OfUser { uid_map, gid_map } = &self.namespaces {
            let mapped = write_to(c"/proc/self/setgroups", b"deny")
                .and_then(|()| write_to(c"/proc/self/gid_map", gid_map.as_bytes()))
                .and_then(|()| write_to(c"/proc/self/uid_map", uid_map.as_bytes()));
            mapped.map_err(at(Stage::UserNamespace))?;
        }
        if let Some(root) = &self.root {
            root.make(self.user).map_err(at(Stage::Mounts))?;
            root.enter().map_err(at(Stage::Root))?;
        }
        for (resource, limit) in &self.limits {
            lower(*resource, *limit).map_err(at(Stage::Limits))?;
        }
        if let Some((_, gid)) = self.user {
            let groups = rustix::thread::set_thread_groups(&[]);
            let group = || rustix::thread::set_thread_res_gid(gid, gid, gid);
            groups.and_then(|()| group()).map_err(at(Stage::User))?;
        }
        if self.unprivileged {
            empty_bounding_set().map_err(at(Stage::Capabilities))?;
        }
        if let Some((uid, _)) = self.user {
            rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(Stage::User))?;
        }
        if self.unprivileged {
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            // Missing in some kernels, and empty unless somebody filled it.
            let _ = rustix::thread::clear_ambient_capability_set();
            rustix::thread::set_capabilities(None, none).map_err(at(Stage::Capabilities))?;
        }
        // After the change of user, which would clear the signal (prctl(2)).
        end_with_parent(report).map_err(at(Stage::Parent))?;
        if self.unprivileged || self.is_supplied {
            rustix::thread::set_no_new_privs(true).map_err(at(Stage::Capabilities))?;
        }
        if let Some(ruleset) = &self.landlock {
            restrict(ruleset).map_err(at(Stage::Landlock))?;
        }
        if let Some(handoff) = handoff {
            supply::install(handoff).map_err(at(Stage::Supply))?;
        }
        if !self.filter.is_empty() {
            let filtered = seccompiler::apply_filter(&self.filter);
            filtered.map_err(|_| (Some(Stage::Filter), Errno::INVAL))?;
        }
        Ok(())
    }
}

type Failed = (Option<Stage>, Errno);

fn at(stage: Stage) -> impl Fn(Errno) -> Failed {
    move |errno| (Some(stage), errno)
}

fn explained(error: io::Error, stage: Option<Stage>) -> io::Error {
    match stage {
        Some(stage) => io::Error::new(
            error.kind(),
            format!("can't {}: {}", stage.text(), host_limits::text(&error)),
        ),
        None => error,
    }
}

/// Waits for the end of a child and reaps it.
pub fn reap(pid: Pid) -> io::Result<std::process::ExitStatus> {
    use std::os::unix::process::ExitStatusExt as _;
    let waited =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))?;
    let (_, status) = waited.ok_or(Errno::CHILD)?;
    Ok(std::process::ExitStatus::from_raw(status.as_raw()))
}

fn write_to(path: &std::ffi::CStr, text: &[u8]) -> Result<(), Errno> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text).map(drop)
}

/// Lowers a limit; never raises it.
fn lower(resource: Resource, limit: u64) -> Result<(), Errno> {
    let now = rustix::process::getrlimit(resource);
    let limit = now.maximum.map_or(limit, |most| most.min(limit));
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(resource, limit)
}

/// Drops all capabilities that executing a program could give back.
fn empty_bounding_set() -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last capability of this kernel.
            Err(Errno::INVAL) => break,
            // A process that may not lower the set has no capability, and gains none under
            // no_new_privs.
            Err(Errno::PERM) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
