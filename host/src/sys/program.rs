//! Starts a program without copying this process.
//!
//! A fork copies the page tables of the whole process, and makes each of its threads fault at every
//! page that it writes to next: with many starts a second that costs more than the programs
//! themselves. So the child shares our memory until it executes the program (`CLONE_VM`,
//! `CLONE_VFORK`; clone(2)), as in posix_spawn(3), which has nothing like a parent-death signal or a
//! network namespace. The thread that starts it waits that long.
//!
//! A child that is to have other capabilities, another user or other properties of its memory is
//! not for this: these would be ours, too. [`Confinement`](super::confine::Confinement) forks.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::process::Pid;

use super::confine::reap;
use super::raw::last_errno;

/// Stack of the child until it executes the program, in units of 16 bytes, its alignment: a few calls
/// deep, the deepest being execvpe(3), which has a path and the arguments there.
const STACK_UNITS: usize = (64 << 10) / 16;

/// A program to be started, with an environment of its own, which is empty at first.
#[derive(Debug, Clone)]
pub struct Program {
    path: OsString,
    arguments: Vec<OsString>,
    environment: Vec<OsString>,
    directory: Option<PathBuf>,
    network: Option<Arc<OwnedFd>>,
}

/// What a started program has of this process.
#[derive(Debug, Clone, Copy)]
pub struct Inheritance<'a> {
    /// Its standard output.
    pub stdout: BorrowedFd<'a>,
    /// Its standard error.
    pub stderr: BorrowedFd<'a>,
    /// Stay open in it, under the numbers that they have here.
    pub descriptors: &'a [OwnedFd],
    /// The kernel kills its process group as soon as the last writing end of this pipe is closed,
    /// see [`end_group_with`](super::end_group_with); one of `descriptors`.
    pub tie: Option<BorrowedFd<'a>>,
    /// Whether the kernel kills it when the *thread* that starts it ends, see
    /// [`bind_to_parent`](super::bind_to_parent).
    pub ends_with_thread: bool,
}

impl Program {
    /// The program at `path`.
    pub fn new(path: impl Into<OsString>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            network: None,
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        for argument in arguments {
            self.arg(argument);
        }
        self
    }

    /// Adds a variable to its environment.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        let mut variable = OsString::from(name);
        variable.push("=");
        variable.push(value);
        self.environment.push(variable);
        self
    }

    /// Starts it in a directory.
    pub fn current_dir(&mut self, directory: &Path) -> &mut Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Starts it in another network namespace than ours.
    pub fn join_network(&mut self, namespace: Arc<OwnedFd>) -> &mut Self {
        self.network = Some(namespace);
        self
    }

    /// Returns the command that forks to start it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear();
        for variable in &self.environment {
            let variable = variable.as_encoded_bytes();
            let at = variable.iter().position(|byte| *byte == b'=');
            let (name, value) = variable.split_at(at.unwrap_or(variable.len()));
            let value = value.get(1..).unwrap_or_default();
            let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            command.env(owned(name), owned(value));
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(namespace) = &self.network {
            super::join_network(&mut command, Arc::clone(namespace));
        }
        command
    }

    /// Starts it as a child of this *thread*, which leads a session of its own and has an empty
    /// standard input. The caller has to reap it.
    ///
    /// # Errors
    /// Why it could not be started; there is no child then.
    pub fn spawn(self, inheritance: Inheritance<'_>) -> io::Result<Pid> {
        let nothing = File::open("/dev/null")?;
        let arguments = std::iter::once(self.path.clone()).chain(self.arguments);
        let arguments = texts(arguments)?;
        let environment = texts(self.environment)?;
        let path = text(self.path)?;
        let directory = self.directory.map(|directory| text(directory.into()));
        let directory = directory.transpose()?;
        let (arguments, environment) = (pointers(&arguments), pointers(&environment));
        let streams = [
            nothing.as_raw_fd(),
            inheritance.stdout.as_raw_fd(),
            inheritance.stderr.as_raw_fd(),
        ];
        // One of them would be replaced before it was duplicated, by a process that had closed its
        // own. The standard library opens them at its start.
        if streams.iter().any(|stream| *stream <= libc::STDERR_FILENO) {
            return Err(io::Error::other(
                "a standard stream of this process is closed",
            ));
        }
        Birth {
            path: &path,
            arguments: &arguments,
            environment: &environment,
            directory: directory.as_deref(),
            streams,
            inheritance,
            network: self.network.as_ref().map(|network| network.as_fd()),
            parent: rustix::process::getpid(),
            failed: AtomicI32::new(0),
        }
        .begin()
    }
}

fn text(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn texts(all: impl IntoIterator<Item = OsString>) -> io::Result<Vec<CString>> {
    all.into_iter().map(text).collect()
}

/// Returns pointers to the texts, and a last one that is null.
fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    let all = texts.iter().map(|text| text.as_ptr());
    all.chain([null()]).collect()
}

/// The work of a child until it executes its program: all that this needs is here already.
struct Birth<'a> {
    path: &'a CStr,
    arguments: &'a [*const libc::c_char],
    environment: &'a [*const libc::c_char],
    directory: Option<&'a CStr>,
    /// The descriptors to become standard input, output and error.
    streams: [RawFd; 3],
    inheritance: Inheritance<'a>,
    network: Option<BorrowedFd<'a>>,
    parent: Pid,
    /// The error number of a child that failed.
    failed: AtomicI32,
}

impl Birth<'_> {
    fn begin(&self) -> io::Result<Pid> {
        let mut stack = Box::<[MaybeUninit<u128>]>::new_uninit_slice(STACK_UNITS);
        let top = stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let argument = std::ptr::from_ref(self).cast_mut().cast();
        let pid = {
            // A handler of ours must not run in the child.
            let _blocked = BlockedSignals::new();
            // SAFETY: the child runs `be_born` on a stack of its own, with a reference that lives
            // until this call returns: not before the child has executed its program, or exited.
            // What it changes in the memory that both have is `failed`, an atomic; see `execute`.
            unsafe { libc::clone(be_born, top.cast(), flags, argument) }
        };
        let Some(pid) = Pid::from_raw(pid.max(0)) else {
            return Err(last_errno().into());
        };
        match self.failed.load(Ordering::Acquire) {
            0 => Ok(pid),
            number => {
                reap(pid)?;
                Err(io::Error::from_raw_os_error(number))
            }
        }
    }

    /// Runs in the child. Returns only if it fails.
    ///
    /// Makes system calls with what is in `self`, and neither allocates nor locks: this thread's
    /// other half, which waits, would find that half done should the child be killed.
    fn execute(&self) -> io::Result<()> {
        reset_signals();
        for (target, stream) in (0..).zip(self.streams) {
            // SAFETY: it changes the child's own table of descriptors, and no memory.
            if unsafe { libc::dup2(stream, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        rustix::process::setsid()?;
        let Inheritance {
            descriptors,
            tie,
            ends_with_thread,
            ..
        } = self.inheritance;
        if let Some(tie) = tie {
            super::signal_group_at_the_end_of(tie.as_raw_fd())?;
        }
        super::close_others_on_exec()?;
        for descriptor in descriptors {
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
        }
        if let Some(namespace) = self.network {
            super::enter_network(namespace)?;
        }
        if let Some(directory) = self.directory {
            rustix::process::chdir(directory)?;
        }
        if ends_with_thread {
            super::end_with_parent(self.parent)?;
        }
        unblock_signals();
        // SAFETY: the pointers are to texts that end with NUL, and the lists end with null; all of
        // them live until the child has executed the program.
        unsafe {
            libc::execvpe(
                self.path.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            );
        }
        Err(io::Error::last_os_error())
    }
}

/// Runs in the child; `birth` is a [`Birth`]. Returning ends it.
extern "C" fn be_born(birth: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `begin` passes a reference, and waits meanwhile.
    let birth = unsafe { &*birth.cast::<Birth<'_>>() };
    if let Err(error) = birth.execute() {
        let number = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
        birth.failed.store(number, Ordering::Release);
    }
    127
}

/// Blocks all signals for this thread while it lives.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the calls initialise both sets, and can't fail with these arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel returned.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}

/// Gives the signals that have a handler their default effect, in a child whose table of handlers is
/// its own, and SIGPIPE, which the standard library ignores.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: the first call fills `action` unless it fails, as for the two numbers that the C
        // library keeps for itself; the second one is passed what the first one filled.
        unsafe {
            if libc::sigaction(signal, null(), action.as_mut_ptr()) != 0 {
                continue;
            }
            let mut action = action.assume_init();
            let has_handler = ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
            if has_handler || signal == libc::SIGPIPE {
                action.sa_sigaction = libc::SIG_DFL;
                action.sa_flags = 0;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Unblocks all signals, whatever was blocked when the child was started.
fn unblock_signals() {
    let mut none = MaybeUninit::uninit();
    // SAFETY: the first call initialises the set that the second one reads.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use super::*;

    /// Starts it, and returns its status and what it printed.
    fn run(program: Program, descriptors: &[OwnedFd]) -> io::Result<(Option<i32>, String)> {
        let (mut output, stdout) = io::pipe()?;
        let inheritance = Inheritance {
            stdout: stdout.as_fd(),
            stderr: stdout.as_fd(),
            descriptors,
            tie: None,
            ends_with_thread: true,
        };
        let pid = program.spawn(inheritance)?;
        drop(stdout);
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        Ok((reap(pid)?.code(), text))
    }

    fn shell(script: &str) -> Program {
        let mut program = Program::new("/bin/sh");
        program.args(["-c", script]);
        program
    }

    #[test]
    fn a_program_has_the_environment_directory_and_streams_that_it_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let mut program = shell("/usr/bin/env; pwd; cat; echo error >&2; exit 7");
        program.env("NAME", "a=b").current_dir(&directory);
        let (code, text) = run(program.clone(), &[]).unwrap();
        assert_eq!(code, Some(7));
        let lines: Vec<_> = text.lines().collect();
        // The shell sets PWD, and some of them more.
        assert!(lines.contains(&"NAME=a=b"), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
        assert!(lines.contains(&directory.to_str().unwrap()), "{text}");
        assert!(lines.contains(&"error"), "{text}");
        let forked = program.command().output().unwrap();
        assert!(String::from_utf8_lossy(&forked.stdout).contains("NAME=a=b"));
    }

    #[test]
    fn a_program_leads_a_session_and_handles_signals_as_usual() {
        // Of `cat`, which handles no signals itself.
        let script = "cat /proc/$$/stat /proc/self/status";
        let (_, text) = run(shell(script), &[]).unwrap();
        let stat: Vec<_> = text.lines().next().unwrap().split(' ').collect();
        assert_eq!((stat[0], stat[0]), (stat[4], stat[5]), "{text}");
        let signals = |kind: &str| {
            let line = text.lines().find(|line| line.starts_with(kind)).unwrap();
            u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap()
        };
        assert_eq!((signals("SigBlk"), signals("SigCgt")), (0, 0), "{text}");
        // What else was ignored when this process was started stays so.
        assert_eq!(signals("SigIgn") >> (libc::SIGPIPE - 1) & 1, 0, "{text}");
    }

    #[test]
    fn a_program_joins_the_network_that_it_is_given() {
        // As an ordinary user.
        let Ok(network) = super::super::new_network() else {
            return;
        };
        let network = Arc::new(network);
        let namespace = || {
            let mut program = shell("readlink /proc/self/ns/net");
            program.join_network(Arc::clone(&network));
            let (_, text) = run(program.clone(), &[]).unwrap();
            let forked = program.command().output().unwrap();
            assert_eq!(String::from_utf8_lossy(&forked.stdout), text);
            text
        };
        let (_, ours) = run(shell("readlink /proc/self/ns/net"), &[]).unwrap();
        assert!(namespace() == namespace() && namespace() != ours, "{ours}");
    }

    #[test]
    fn a_program_inherits_no_descriptors_but_those_named() {
        let (_end, stray) = io::pipe().unwrap();
        let stray = rustix::io::dup(&stray).unwrap();
        let (_other, named) = io::pipe().unwrap();
        let named = OwnedFd::from(named);
        let (stray, number) = (stray.as_raw_fd(), named.as_raw_fd());
        let script = format!("[ -e /proc/self/fd/{number} ] && [ ! -e /proc/self/fd/{stray} ]");
        let (code, text) = run(shell(&script), &[named]).unwrap();
        assert_eq!((code, text.as_str()), (Some(0), ""));
    }

    #[test]
    fn a_program_that_can_not_be_executed_is_an_error_and_leaves_no_child() {
        let mut nowhere = shell("");
        nowhere.current_dir(Path::new("/no/such/directory"));
        for missing in [Program::new("/no/such/program"), nowhere] {
            let error = run(missing, &[]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        let error = run(Program::new("/dev/null"), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let error = run(shell("a\0b"), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        let (mut output, stdout) = io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let inheritance = Inheritance {
                stdout: stdout.as_fd(),
                stderr: stdout.as_fd(),
                descriptors: &[],
                tie: None,
                ends_with_thread: true,
            };
            let program = shell("exec sleep 1000");
            program.spawn(inheritance).unwrap()
        });
        let pid = thread.join().unwrap();
        // Ends when the program has.
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(reap(pid).unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn threads_that_allocate_meanwhile_are_not_disturbed() {
        let threads = (0..4).map(|_| {
            std::thread::spawn(|| {
                for _ in 0..50 {
                    assert_eq!(run(shell("echo x"), &[]).unwrap().1, "x\n");
                }
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
    }
}
