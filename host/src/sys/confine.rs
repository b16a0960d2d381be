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

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Dev, FileType, Gid, Mode, OFlags, Uid, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    unmount,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::raw::last_errno;
use super::supply;
use crate::host_limits;

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

/// The namespaces of a program: ours, or its own PID, mount, network, IPC and UTS namespaces.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// The namespaces of this process.
    #[default]
    Ours,
    /// Takes CAP_SYS_ADMIN.
    Own,
    /// Namespaces of its own inside a user namespace that maps a single user and group.
    OfUser {
        /// A line of `/proc/PID/uid_map` (user_namespaces(7)).
        uid_map: String,
        /// A line of `/proc/PID/gid_map`.
        gid_map: String,
    },
}

impl Namespaces {
    /// Returns namespaces that need no capability: `uid` and `gid` are this process's own.
    pub fn of_user(uid: Uid, gid: Gid) -> Self {
        let map = |id: u32| format!("{id} {id} 1");
        Self::OfUser {
            uid_map: map(uid.as_raw()),
            gid_map: map(gid.as_raw()),
        }
    }

    fn flags(&self) -> u64 {
        let own = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        u64::from(
            match self {
                Self::Ours => 0,
                Self::Own => own,
                Self::OfUser { .. } => own | libc::CLONE_NEWUSER,
            }
            .cast_unsigned(),
        )
    }
}

/// A root directory: a tmpfs populated by these steps, then made read-only.
#[derive(Debug)]
pub struct Root {
    /// The mount point of the tmpfs, which hides what is below it: nothing there can be bound.
    pub over: CString,
    /// The steps, in this order.
    pub steps: Vec<Step>,
}

/// A step in populating a root directory. All `at` are below [`Root::over`].
#[derive(Debug)]
pub enum Step {
    /// An empty directory.
    Directory {
        /// Its path in the new root.
        at: CString,
    },
    /// An empty file, as the target of a bind mount.
    File {
        /// Its path in the new root.
        at: CString,
    },
    /// A symbolic link.
    Link {
        /// Its path in the new root.
        at: CString,
        /// The target of the link.
        target: CString,
    },
    /// A read-only bind mount of a file or directory of the host, with everything below it.
    Bind {
        /// Its path on the host.
        from: CString,
        /// Its path in the new root.
        at: CString,
    },
    /// A bind mount of a device of the host, with its permissions.
    BindDevice {
        /// Its path on the host.
        from: CString,
        /// Its path in the new root.
        at: CString,
    },
    /// A character device, owned by the program's user. Needs CAP_MKNOD.
    Device {
        /// Its path in the new root.
        at: CString,
        /// Its major and minor number.
        device: Dev,
    },
}

/// The stage in which a confinement failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Entering new namespaces.
    Namespaces = 1,
    /// Mapping user and group into a user namespace.
    UserNamespace,
    /// Populating the root directory.
    Mounts,
    /// Changing to the root directory.
    Root,
    /// Setting resource limits.
    Limits,
    /// Changing to another user.
    User,
    /// Dropping capabilities.
    Capabilities,
    /// Setting the parent-death signal.
    Parent,
    /// Restricting access to files.
    Landlock,
    /// Restricting system calls.
    Filter,
    /// Installing the filter that lets us supply a file.
    Supply,
}

impl Stage {
    const ALL: [Self; 11] = [
        Self::Namespaces,
        Self::UserNamespace,
        Self::Mounts,
        Self::Root,
        Self::Limits,
        Self::User,
        Self::Capabilities,
        Self::Parent,
        Self::Landlock,
        Self::Filter,
        Self::Supply,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Namespaces => "make its namespaces",
            Self::UserNamespace => "map its user into its user namespace",
            Self::Mounts => "make its root directory",
            Self::Root => "change to its root directory",
            Self::Limits => "set its limits",
            Self::User => "change to its user",
            Self::Capabilities => "give up its capabilities",
            Self::Parent => "tie it to this process",
            Self::Landlock => "restrict its files (Landlock)",
            Self::Filter => "filter its system calls (seccomp)",
            Self::Supply => "pass its memory (seccomp notification, Linux 5.14 or newer)",
        }
    }
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
            let done = self.enter(report, theirs.as_ref().map(AsFd::as_fd));
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
            format!("can't {}: {}", stage.text(), host_limits::told(&error)),
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

/// The pipe by which the processes of a start report their progress: records of two numbers, each
/// written at once.
#[derive(Clone, Copy)]
struct Report<'a>(BorrowedFd<'a>);

/// The kind of a record with the PID of the program's process. Other kinds are those of [`Stage`].
const IS_PROCESS: u32 = 0;

impl Report<'_> {
    fn process(self, pid: u32) {
        self.record(IS_PROCESS, pid);
    }

    fn failed(self, stage: Stage) {
        self.record(stage as u32, 0);
    }

    fn record(self, kind: u32, number: u32) {
        let mut record = [0; 8];
        record[..4].copy_from_slice(&kind.to_ne_bytes());
        record[4..].copy_from_slice(&number.to_ne_bytes());
        // A write fails only if nobody reads, and then nobody cares.
        let _ = rustix::io::write(self.0, &record);
    }
}

/// Reads the report. All writers have executed or exited by now.
fn read(report: io::PipeReader) -> io::Result<(Option<Pid>, Option<Stage>)> {
    let flags = rustix::fs::fcntl_getfl(&report)?;
    rustix::fs::fcntl_setfl(&report, flags | OFlags::NONBLOCK)?;
    let (mut process, mut failed) = (None, None);
    let mut record = [0; 8];
    while rustix::io::read(&report, &mut record) == Ok(record.len()) {
        let number = |part: &[u8]| u32::from_ne_bytes(part.try_into().unwrap_or_default());
        match number(&record[..4]) {
            IS_PROCESS => process = super::pid(number(&record[4..])),
            kind => failed = Stage::ALL.into_iter().find(|stage| *stage as u32 == kind),
        }
    }
    Ok((process, failed))
}

/// Continues as a new process in new namespaces, a child of this one's parent, and exits this one.
fn fork_into(namespaces: u64, report: Report<'_>) -> Result<(), Errno> {
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | u64::from(libc::CLONE_PARENT.cast_unsigned());
    let (args, size) = (&raw mut args, size_of::<libc::clone_args>());
    // SAFETY: without CLONE_VM it is a fork: the new process goes on here with a copy of all
    // memory. The arguments are valid for the call.
    match unsafe { libc::syscall(libc::SYS_clone3, args, size) } {
        0 => Ok(()),
        pid if pid > 0 => {
            report.process(u32::try_from(pid).unwrap_or_default());
            // SAFETY: it ends this process without running exit handlers, which belong to the
            // process that this one was forked from.
            unsafe { libc::_exit(0) }
        }
        _ => Err(last_errno()),
    }
}

fn write_to(path: &std::ffi::CStr, text: &[u8]) -> Result<(), Errno> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text).map(drop)
}

impl Root {
    fn make(&self, user: Option<(Uid, Gid)>) -> Result<(), Errno> {
        // Mounts made here do not propagate to the host, nor the host's to here.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(
            c"ironclaw",
            &*self.over,
            c"tmpfs",
            flags,
            c"mode=755,size=1m",
        )?;
        let umask = rustix::process::umask(Mode::empty());
        for step in &self.steps {
            step.take(user)?;
        }
        rustix::process::umask(umask);
        Ok(())
    }

    fn enter(&self) -> Result<(), Errno> {
        rustix::process::chdir(&*self.over)?;
        // Stacks the old root on top of the new one, so that it can be unmounted there
        // (pivot_root(2)).
        rustix::process::pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        set_attributes(c"/", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, false)
    }
}

impl Step {
    fn take(&self, user: Option<(Uid, Gid)>) -> Result<(), Errno> {
        match self {
            Self::Directory { at } => match mkdirat(CWD, &**at, Mode::from(0o755)) {
                Err(Errno::EXIST) => Ok(()),
                made => made,
            },
            Self::File { at } => mknodat(CWD, &**at, FileType::RegularFile, Mode::from(0o444), 0),
            Self::Link { at, target } => symlinkat(&**target, CWD, &**at),
            Self::Bind { from, at } => {
                mount_bind_recursive(&**from, &**at)?;
                let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
                set_attributes(at, attributes, true)
            }
            Self::BindDevice { from, at } => {
                mount_bind_recursive(&**from, &**at)?;
                set_attributes(at, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, false)
            }
            Self::Device { at, device } => {
                mknodat(
                    CWD,
                    &**at,
                    FileType::CharacterDevice,
                    Mode::from(0o600),
                    *device,
                )?;
                match user {
                    Some((uid, gid)) => rustix::fs::chown(&**at, Some(uid), Some(gid)),
                    None => Ok(()),
                }
            }
        }
    }
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Calls mount_setattr(2).
fn set_attributes(at: &std::ffi::CStr, set: u64, all_below: bool) -> Result<(), Errno> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = if all_below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the attributes are valid for the call, which reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
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

/// Ends this process when the thread that started it ends, even if that has ended already: the
/// report has no reader then. Comparing the parent's PID would not work in a PID namespace.
fn end_with_parent(report: Report<'_>) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut reader = [PollFd::from_borrowed_fd(report.0, PollFlags::empty())];
    poll(&mut reader, Some(&now))?;
    if reader[0].revents().contains(PollFlags::ERR) {
        return Err(Errno::SRCH);
    }
    Ok(())
}

/// Calls landlock_restrict_self(2); the crate's own function may allocate.
fn restrict(ruleset: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Returns the kernel's version of Landlock (landlock_create_ruleset(2)); 0 if it is missing or
/// switched off.
pub fn landlock_version() -> i64 {
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: without attributes no memory is touched.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) }.max(0)
}
