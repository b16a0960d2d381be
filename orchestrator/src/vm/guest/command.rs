//! Commands for a guest, and their results.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironclaw_protocol::message::{Exec, ExecId, Inherited, Stderr, TerminalSize};
use ironclaw_protocol::os_bytes::OsBytes;
use serde::Serialize;

use super::defaults::Defaults;

/// Limit of the output that [`Guest::exec`](super::Guest::exec) collects if a command has no
/// [other](Command::max_output), in bytes.
pub const MAX_COLLECTED: u64 = 64 * 1024 * 1024;

/// A command to run in a guest.
///
/// Its arguments, variables and directory are bytes, as everywhere on Linux. Linux's limits apply:
/// 128 KiB each, and 2 MiB in all.
///
/// ```
/// use ironclaw_orchestrator::vm::Command;
/// let command = Command::new("sort").arg("-r").env("LC_ALL", "C").stdin("b\na\n");
/// # let _ = command;
/// ```
#[derive(Clone)]
pub struct Command {
    argv: Vec<OsString>,
    /// The program, if `argv` begins with another name.
    program: Option<OsString>,
    /// Variables that are set.
    env: BTreeMap<OsString, OsString>,
    /// Variables that are not inherited.
    removed: BTreeSet<OsString>,
    inherits: bool,
    cwd: Option<PathBuf>,
    stderr: Stderr,
    timeout: Option<Duration>,
    keep: bool,
    user: Option<OsString>,
    tag: OsString,
    terminal: Option<TerminalSize>,
    pub(super) max_output: u64,
    pub(super) stdin: Stdin,
}

/// The source of a command's standard input.
#[derive(Clone)]
pub(super) enum Stdin {
    Empty,
    Bytes(Vec<u8>),
    Piped,
}

impl Command {
    /// Runs `program`: a path in the guest, or a name that is looked up on the guest's `PATH`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            argv: vec![program.as_ref().to_owned()],
            program: None,
            env: BTreeMap::new(),
            removed: BTreeSet::new(),
            inherits: true,
            cwd: None,
            stderr: Stderr::Apart,
            timeout: None,
            keep: false,
            user: None,
            tag: OsString::new(),
            terminal: None,
            max_output: MAX_COLLECTED,
            stdin: Stdin::Empty,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.argv.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments = arguments.into_iter();
        self.argv
            .extend(arguments.map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets the name that the program gets as its first argument, in place of the one that it is
    /// run by.
    #[must_use]
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Self {
        if let Some(first) = self.argv.first_mut() {
            let program = std::mem::replace(first, name.as_ref().to_owned());
            self.program.get_or_insert(program);
        }
        self
    }

    /// Sets an environment variable in addition to the guest's own.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.removed.remove(&name);
        self.env.insert(name, value);
        self
    }

    /// Sets environment variables in addition to the guest's own.
    #[must_use]
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        variables.fold(self, |command, (name, value)| command.env(name, value))
    }

    /// Removes an environment variable: one that was set before, and the guest's own.
    ///
    /// ```
    /// # use ironclaw_orchestrator::vm::Command;
    /// let command = Command::new("date").env_remove("LANG");
    /// # let _ = command;
    /// ```
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.remove(name.as_ref());
        self.removed.insert(name.as_ref().to_owned());
        self
    }

    /// Removes all environment variables: those that were set before, and all of the guest's own, with
    /// those of a [login](Self::user) and a [terminal](Self::pty). The program is looked up on the
    /// guest's own `PATH` all the same, unless another one is set afterwards.
    ///
    /// ```
    /// # use ironclaw_orchestrator::vm::Command;
    /// let command = Command::new("env").env_clear().env("LANG", "C");
    /// # let _ = command;
    /// ```
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self.removed.clear();
        self.inherits = false;
        self
    }

    /// Sets how many bytes of output are collected at most, instead of [`MAX_COLLECTED`]; a command
    /// that prints more is killed. For [`exec`](super::Guest::exec) and
    /// [`Running::output`](super::Running::output); what is streamed is not bounded.
    #[must_use]
    pub fn max_output(mut self, bytes: u64) -> Self {
        self.max_output = bytes;
        self
    }

    /// Runs it in this directory of the guest, an absolute path.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.cwd = Some(directory.as_ref().to_owned());
        self
    }

    /// Runs it as this user of the guest: a name in the guest's own `/etc/passwd`, or a uid, either
    /// with `:` and a group's name or gid; as root otherwise. The user has the supplementary groups
    /// of the guest's `/etc/group`, unless a group is named; a uid without an entry has the group 0.
    ///
    /// The command gets what a login would set: `HOME`, `USER`, `LOGNAME`, `SHELL` and `PATH`; and
    /// it runs in the user's home, or in `/` if there is none that the user may enter, unless it has
    /// a [directory](Self::current_dir). The kernel of the guest decides what the user may.
    ///
    /// ```
    /// # use ironclaw_orchestrator::vm::Command;
    /// let command = Command::new("id").user("nobody");
    /// let command = command.user("1000:27");
    /// # let _ = command;
    /// ```
    #[must_use]
    pub fn user(mut self, user: impl AsRef<OsStr>) -> Self {
        self.user = Some(user.as_ref().to_owned());
        self
    }

    /// Sets a text of up to 128 bytes that [`Guest::list`](super::Guest::list) shows of it, in any
    /// session and in copies of the guest.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<OsStr>) -> Self {
        self.tag = tag.as_ref().to_owned();
        self
    }

    /// Runs it on a pseudo-terminal of this size, as its controlling terminal, in a session of its own.
    /// All output comes as standard output; what is written to a [piped](Self::stdin_piped) standard
    /// input is typed, and its end types Ctrl-D. `TERM` is `xterm` unless it is set.
    /// [`Running::resize`](super::Running::resize) changes the size. When the command ends, or is
    /// killed, the terminal hangs up.
    ///
    /// A program that can't be executed, though it is there, shows that on the terminal and exits with
    /// 126 or 127.
    ///
    /// ```
    /// # use ironclaw_orchestrator::vm::{Command, TerminalSize};
    /// let size = TerminalSize { rows: 24, columns: 80 };
    /// let command = Command::new("sh").pty(size).stdin_piped();
    /// # let _ = command;
    /// ```
    #[must_use]
    pub fn pty(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Uses one pipe for standard output and standard error, like `2>&1`: all output comes as
    /// standard output, in the order in which it was written.
    #[must_use]
    pub fn stderr_to_stdout(mut self) -> Self {
        self.stderr = Stderr::ToStdout;
        self
    }

    /// Kills it after this time, with all its descendants.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the content of standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Pipes standard input, to be written while the command runs, with
    /// [`Running::take_stdin`](super::Running::take_stdin).
    #[must_use]
    pub fn stdin_piped(mut self) -> Self {
        self.stdin = Stdin::Piped;
        self
    }

    /// Lets it continue without a listener: when its [`Running`](super::Running) is dropped, and
    /// when the connection to the guest is lost for long. The guest keeps the last 64 KiB of each
    /// output stream meanwhile. [`Guest::list`](super::Guest::list) and
    /// [`Guest::attach`](super::Guest::attach) find it again. It ends by itself, by its [time
    /// limit](Self::timeout), or by [`Guest::kill`](super::Guest::kill).
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// Fills in what the command does not say.
    pub(super) fn or(mut self, defaults: &Defaults) -> Self {
        if self.inherits {
            for (name, value) in &defaults.env {
                if !self.env.contains_key(name) && !self.removed.contains(name) {
                    self.env.insert(name.clone(), value.clone());
                }
            }
        }
        if self.cwd.is_none() {
            let of_user = defaults
                .cwd_of_user
                .as_ref()
                .filter(|_| self.user.is_none());
            self.cwd = defaults.cwd.as_ref().or(of_user).cloned();
        }
        if self.user.is_none() {
            self.user.clone_from(&defaults.user);
        }
        self
    }

    pub(super) fn is_kept(&self) -> bool {
        self.keep
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.timeout
    }

    fn inherited(&self) -> Inherited {
        match (self.inherits, self.removed.is_empty()) {
            (false, _) => Inherited::Nothing,
            (true, true) => Inherited::All,
            (true, false) => Inherited::Except(self.removed.iter().map(bytes).collect()),
        }
    }

    pub(super) fn to_exec(&self, id: ExecId) -> Exec {
        Exec {
            id,
            keep: self.keep,
            user: self.user.as_ref().map(bytes),
            tag: bytes(&self.tag),
            terminal: self.terminal,
            argv: self.argv.iter().map(bytes).collect(),
            program: self.program.as_ref().map(bytes),
            inherited: self.inherited(),
            env: self
                .env
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            cwd: self.cwd.as_deref().map(bytes),
            stderr: self.stderr,
            stdin: !matches!(self.stdin, Stdin::Empty),
            // Rounded up, so that a short limit never becomes none.
            timeout_ms: self.timeout.map(|limit| {
                u64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
            }),
        }
    }
}

/// Converts a string of the operating system for the protocol.
pub(super) fn bytes(text: impl AsRef<OsStr>) -> OsBytes {
    text.as_ref().as_bytes().into()
}

impl<S: AsRef<OsStr>, const N: usize> From<[S; N]> for Command {
    fn from(argv: [S; N]) -> Self {
        argv.as_slice().into()
    }
}

impl<S: AsRef<OsStr>> From<Vec<S>> for Command {
    fn from(argv: Vec<S>) -> Self {
        argv.as_slice().into()
    }
}

impl<S: AsRef<OsStr>> From<&[S]> for Command {
    fn from(argv: &[S]) -> Self {
        Self {
            argv: argv.iter().map(|part| part.as_ref().to_owned()).collect(),
            ..Self::new("")
        }
    }
}

/// Limits of the arguments and names of variables shown: in number, and of each in bytes.
const MAX_SHOWN: usize = 16;
const MAX_SHOWN_BYTES: usize = 256;

/// Texts of a command, as far as they are not too many or too long to show.
struct Shown<'a>(Vec<&'a OsStr>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(texts) = self;
        let mut list = f.debug_list();
        for text in texts.iter().take(MAX_SHOWN) {
            match text.as_bytes().get(..MAX_SHOWN_BYTES) {
                Some(start) => list.entry(&format_args!(
                    "{:?} and {} bytes",
                    OsStr::from_bytes(start),
                    text.len() - start.len()
                )),
                None => list.entry(text),
            };
        }
        if texts.len() > MAX_SHOWN {
            list.entry(&format_args!("{} more", texts.len() - MAX_SHOWN));
        }
        list.finish()
    }
}

/// Without what may be secret or large: values of variables, the standard input, and more arguments
/// than people read.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let argv = self.argv.iter().map(OsString::as_os_str);
        let names = self.env.keys().map(OsString::as_os_str);
        let removed = self.removed.iter().map(OsString::as_os_str);
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("argv", &Shown(argv.collect()))
            .field("env", &Shown(names.collect()))
            .field("removed", &Shown(removed.collect()))
            .field("inherits", &self.inherits)
            .field("cwd", &self.cwd)
            .field("stdin", &self.stdin)
            .field("timeout", &self.timeout)
            .field("keep", &self.keep)
            .field("user", &self.user)
            .field("tag", &self.tag)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Piped => f.write_str("Piped"),
        }
    }
}

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// It was terminated by this signal (Linux number).
    Signal(i32),
    /// It reached its time limit and was killed.
    TimedOut,
}

impl ExitStatus {
    /// Returns whether the code is 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// Returns the code, if it exited with one.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code.into()),
            Self::Signal(_) | Self::TimedOut => None,
        }
    }

    /// Returns the signal that terminated it, if one did; none for a time limit.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(signal) => Some(signal),
            Self::Code(_) | Self::TimedOut => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// The output and the end of a command.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// The end.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether the guest ran out of memory and its kernel killed a process of the command for it.
    /// The command may have survived that.
    pub out_of_memory: bool,
}

impl Output {
    /// Creates that of a command that printed nothing, for programs that simulate one.
    #[must_use]
    pub fn new(status: ExitStatus) -> Self {
        Self {
            status,
            stdout: Vec::new(),
            stderr: Vec::new(),
            out_of_memory: false,
        }
    }
}

/// Without what was printed, which may be secret, or large.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            stdout,
            stderr,
            out_of_memory,
        } = self;
        f.debug_struct("Output")
            .field("status", status)
            .field("stdout", &format_args!("{} bytes", stdout.len()))
            .field("stderr", &format_args!("{} bytes", stderr.len()))
            .field("out_of_memory", out_of_memory)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_command_holds_no_secret_and_no_megabyte() {
        let large = "x".repeat(1 << 17);
        let large = Command::new("sh").args(std::iter::repeat_n(&large, 15));
        let text = format!("{large:?}");
        assert!(text.len() < 8192 && text.contains("130816 bytes"), "{text}");
        let command = Command::new("sh")
            .envs([("TOKEN", "s3cret")])
            .stdin(vec![b'x'; 1 << 20]);
        let output = Output {
            status: ExitStatus::Code(0),
            stdout: b"s3cret".repeat(1 << 18),
            stderr: Vec::new(),
            out_of_memory: false,
        };
        let printed = super::super::Printed {
            stdout: output.stdout.clone(),
            stderr: Vec::new(),
        };
        let event = super::super::ExecEvent::Stdout(output.stdout.clone());
        for shown in [
            format!("{event:?}"),
            format!("{command:?}"),
            format!("{output:?}"),
            format!("{printed:?}"),
        ] {
            assert!(shown.len() < 300 && !shown.contains("s3cret"), "{shown}");
        }
        assert!(format!("{command:?}").contains("TOKEN"));
    }

    #[test]
    fn a_command_takes_what_the_standard_librarys_takes() {
        let path = Path::new("/bin/ls");
        let command = Command::new(path)
            .args([OsStr::new("-l"), path.as_os_str()])
            .envs([("A", "1")])
            .current_dir("/tmp");
        let exec = command.to_exec(ExecId(0));
        let argv: Vec<_> = exec
            .argv
            .iter()
            .map(|part| part.as_bytes().to_vec())
            .collect();
        assert_eq!(argv, [&b"/bin/ls"[..], b"-l", b"/bin/ls"]);
        assert_eq!(exec.env.len(), 1);
        assert_eq!((exec.program, exec.inherited), (None, Inherited::All));
    }

    #[test]
    fn variables_are_removed_and_set_in_the_order_of_the_calls() {
        let names = |exec: &Exec| -> Vec<_> {
            let names = exec.env.iter().map(|(name, _)| name.to_string());
            names.collect()
        };
        let command = Command::new("env")
            .envs([("A", "1"), ("B", "2"), ("A", "3")])
            .env_remove("B")
            .env_remove("C")
            .env_remove("D")
            .env("D", "4");
        let exec = command.to_exec(ExecId(0));
        assert_eq!(names(&exec), ["A", "D"]);
        assert_eq!(exec.env[0].1.to_str(), Some("3"));
        let kept_out = Inherited::Except(vec!["B".into(), "C".into()]);
        assert_eq!(exec.inherited, kept_out);
        let cleared = command.env_clear().env("E", "5").to_exec(ExecId(0));
        assert_eq!(names(&cleared), ["E"]);
        assert_eq!(cleared.inherited, Inherited::Nothing);
    }

    #[test]
    fn a_program_may_get_another_name_than_its_own_and_the_last_one_given_counts() {
        let command = Command::new("busybox").arg("-l").arg0("sh").arg0("ash");
        let exec = command.to_exec(ExecId(0));
        assert_eq!(exec.program, Some("busybox".into()));
        assert_eq!(exec.argv, ["ash", "-l"].map(Into::into));
    }

    #[test]
    fn what_a_command_says_comes_before_what_its_template_says() {
        let env = [
            "A=image".to_owned(),
            "B=image".to_owned(),
            "C=image".to_owned(),
        ];
        let defaults = Defaults::of_image(&env, "app", "/srv", "");
        let plain = Command::new("x").or(&defaults).to_exec(ExecId(0));
        assert_eq!(plain.env.len(), 3);
        assert_eq!(
            plain.user.as_ref().map(OsBytes::as_bytes),
            Some(&b"app"[..])
        );
        assert_eq!(
            plain.cwd.as_ref().map(OsBytes::as_bytes),
            Some(&b"/srv"[..])
        );
        let own = Command::new("x")
            .env("A", "own")
            .env_remove("B")
            .user("root")
            .current_dir("/tmp")
            .or(&defaults)
            .to_exec(ExecId(0));
        let env: Vec<_> = own
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(env, ["A=own", "C=image"]);
        assert_eq!(own.user.as_ref().map(OsBytes::as_bytes), Some(&b"root"[..]));
        assert_eq!(own.cwd.as_ref().map(OsBytes::as_bytes), Some(&b"/tmp"[..]));
        let bare = Command::new("x")
            .env_clear()
            .or(&defaults)
            .to_exec(ExecId(0));
        assert!(bare.env.is_empty());
        let unsaid = Defaults::of_image(&[], "", "", "");
        let root = Command::new("x").or(&unsaid).to_exec(ExecId(0));
        assert_eq!(root.cwd.as_ref().map(OsBytes::as_bytes), Some(&b"/"[..]));
        let other = Command::new("x").user("app").or(&unsaid).to_exec(ExecId(0));
        assert!(other.cwd.is_none(), "it begins in the user's home");
    }

    #[test]
    fn a_status_has_a_code_or_a_signal_as_the_standard_librarys_has() {
        let (code, signal) = (ExitStatus::Code(3), ExitStatus::Signal(9));
        assert_eq!((code.code(), code.signal()), (Some(3), None));
        assert_eq!((signal.code(), signal.signal()), (None, Some(9)));
        assert_eq!(ExitStatus::TimedOut.code(), None);
    }
}
