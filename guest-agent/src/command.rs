//! A command of the host, from its start to its end.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command as Spawn, Stdio};
use std::time::{Duration, Instant};

use ironclaw_protocol::message::{CommandEnd, Exec, FailureKind, Outcome, Stream, TerminalSize};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::account::Account;
use crate::children::signal_group;
use crate::control_group::ControlGroup;
use crate::credentials::as_user;
use crate::failure::refused;
use crate::os_str::os;
use crate::output::{Chunk, CommandEnds, Outputs, nonblocking, open_pipe};
use crate::program::Surroundings;
use crate::rundown::Rundown;
use crate::stdin::Stdin;
use crate::system::System;
use crate::terminal;

/// Timeout of reaping the main process of a killed command. Among hundreds of other dying processes
/// it has to wait its turn, but none of them runs a program any more.
const REAP_TIMEOUT: Duration = Duration::from_millis(250);

/// The processes of an `Exec`, and their pipes.
///
/// It has ended when the main process is reaped and its output has ended. Processes that outlive it
/// and keep the output open are waited for briefly: see [`Rundown`]. They continue to live.
///
/// Dropping it before its end kills all its processes.
#[derive(Debug)]
pub(crate) struct Command {
    leader: Pid,
    group: Option<ControlGroup>,
    stdin: Option<Stdin>,
    outputs: Outputs,
    terminal: Option<File>,
    deadline: Option<Instant>,
    /// The outcome to report in place of the process's, if the agent itself killed it.
    verdict: Option<CommandEnd>,
    /// The time until which a killed main process is waited for.
    reaped_by: Option<Instant>,
    end: Option<CommandEnd>,
    rundown: Option<Rundown>,
    over: bool,
}

/// The end of a command, after all its output is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) end: CommandEnd,
    /// Whether the kernel killed one of its processes for lack of memory.
    pub(crate) out_of_memory: bool,
}

/// A new command's streams.
struct Streams {
    /// The command's ends.
    of_command: [Stdio; 3],
    stdin: Option<Stdin>,
    outputs: Outputs,
    terminal: Option<File>,
}

impl Streams {
    fn of_pipes(exec: &Exec) -> io::Result<Self> {
        let (command_stdin, stdin) = open_stdin(exec)?;
        let (outputs, CommandEnds { stdout, stderr }) = Outputs::open(exec.stderr)?;
        Ok(Self {
            of_command: [command_stdin, stdout.into(), stderr.into()],
            stdin,
            outputs,
            terminal: None,
        })
    }

    fn of_terminal(exec: &Exec, size: TerminalSize, account: Option<&Account>) -> io::Result<Self> {
        let (ours, theirs) = terminal::open(size, account)?;
        let name = terminal::name(&ours)?;
        let typed = exec.stdin.then(|| ours.try_clone()).transpose()?;
        let of_command = [theirs.try_clone()?, theirs.try_clone()?, theirs];
        Ok(Self {
            of_command: of_command.map(Stdio::from),
            stdin: typed.map(|typed| Stdin::of_terminal(typed, name)),
            outputs: Outputs::of_terminal(ours.try_clone()?),
            terminal: Some(ours),
        })
    }
}

/// Opens standard input for the command, and the agent's end, if it is written to.
fn open_stdin(exec: &Exec) -> io::Result<(Stdio, Option<Stdin>)> {
    if !exec.stdin {
        return Ok((Stdio::null(), None));
    }
    let (reader, writer) = open_pipe()?;
    Ok((reader.into(), Some(Stdin::new(nonblocking(writer)?))))
}

fn not_that_user(exec: &Exec, error: &io::Error) -> Outcome {
    let user = exec.user.as_ref().map_or(OsStr::new(""), os);
    let attempt = format_args!("become the user {}", user.display());
    refused(attempt, error, FailureKind::NoSuchUser)
}

impl Command {
    /// Starts the command in `exec`.
    pub(crate) fn start(
        exec: &Exec,
        surroundings: &Surroundings,
        system: &mut dyn System,
    ) -> Result<Self, Outcome> {
        let account = Account::of_request(exec.user.as_ref())?;
        let account = account.as_ref();
        let env = surroundings.environment(exec, account);
        let located = as_user(account, || {
            let directory = surroundings.directory(exec, account)?;
            let program = surroundings.find(exec, &env, &directory)?;
            Ok((program, directory))
        });
        let (program, directory) = located.map_err(|error| not_that_user(exec, &error))??;
        let name = exec.program().map_or(OsStr::new(""), os);
        let shown_to_itself = exec.argv.first().map_or(name, os);
        let no_pipes = |error: io::Error| {
            let attempt = format_args!("set up the pipes of {}", name.display());
            refused(attempt, &error, FailureKind::Io)
        };
        let streams = match exec.terminal {
            Some(size) => Streams::of_terminal(exec, size, account),
            None => Streams::of_pipes(exec),
        };
        let streams = streams.map_err(no_pipes)?;
        let mut spawn = match streams.terminal {
            None => {
                let mut spawn = Spawn::new(program);
                spawn.arg0(shown_to_itself).process_group(0);
                spawn
            }
            Some(_) => terminal::taken_over_by(&program, shown_to_itself),
        };
        let [stdin, stdout, stderr] = streams.of_command;
        spawn
            .args(exec.argv.iter().skip(1).map(os))
            .env_clear()
            .envs(env)
            .current_dir(directory)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        let started = Instant::now();
        let (child, group) = system.spawn(&mut spawn, account);
        // The command's ends of its streams: else they would never end.
        drop(spawn);
        // The file was found before, so the missing one is its interpreter.
        let child = child.map_err(|error| {
            refused(
                format_args!("run {}", name.display()),
                &error,
                FailureKind::NotFound,
            )
        })?;
        Ok(Self {
            leader: Pid::from_child(&child),
            group,
            stdin: streams.stdin,
            outputs: streams.outputs,
            terminal: streams.terminal,
            deadline: exec
                .timeout_ms
                .and_then(|ms| started.checked_add(Duration::from_millis(ms))),
            verdict: None,
            reaped_by: None,
            end: None,
            rundown: None,
            over: false,
        })
    }

    /// Returns the PID of its main process, alive or not.
    pub(crate) fn pid(&self) -> u32 {
        self.leader.as_raw_pid().unsigned_abs()
    }

    /// Returns the PID of its main process, until that is reaped.
    pub(crate) fn leader(&self) -> Option<Pid> {
        self.end.is_none().then_some(self.leader)
    }

    /// Returns standard input, if the host has announced some.
    pub(crate) fn stdin(&mut self) -> Option<&mut Stdin> {
        self.stdin.as_mut()
    }

    /// Returns the time of the next check whether somebody waits for standard input.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.stdin.as_ref().and_then(Stdin::next_look)
    }

    /// Returns the pipe to standard input, if there is something to write.
    pub(crate) fn stdin_to_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().and_then(Stdin::to_write)
    }

    /// Returns the pipe of `stream` to wait for.
    pub(crate) fn to_wait_for(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.outputs.to_wait_for(stream)
    }

    /// Returns whether to read `stream` without waiting.
    pub(crate) fn is_ready(&self, stream: Stream) -> bool {
        self.outputs.is_ready(stream)
    }

    /// Reads from `stream`, into as much of `buffer` as there is room for.
    pub(crate) fn read<'a>(
        &mut self,
        stream: Stream,
        room: usize,
        buffer: &'a mut [u8],
    ) -> &'a [u8] {
        let Chunk::Bytes(count) = self.outputs.read(stream, room as u64, buffer) else {
            return &[];
        };
        if let Some(rundown) = &mut self.rundown
            && rundown.came(count as u64)
        {
            self.stop_waiting();
        }
        &buffer[..count]
    }

    fn stop_waiting(&mut self) {
        self.rundown = None;
        self.outputs.cut_off();
    }

    /// Handles the reaping of the main process. Returns how much content nobody will read.
    pub(crate) fn ended(&mut self, end: CommandEnd, now: Instant) -> usize {
        self.end = Some(end);
        self.deadline = None;
        self.reaped_by = None;
        if self.verdict.is_some() {
            // Everything that could write more was killed with it.
            self.outputs.cut_off();
        } else {
            self.outputs.look_at_once();
            self.rundown = Some(Rundown::start(now));
        }
        self.stdin.as_mut().map_or(0, Stdin::abandon)
    }

    /// Returns the end, when it has ended and its output is read.
    pub(crate) fn over(&mut self) -> Option<Ended> {
        if !self.outputs.are_over() {
            return None;
        }
        let end = self.end?;
        self.over = true;
        Some(Ended {
            end: self.verdict.unwrap_or(end),
            out_of_memory: self.ran_out_of_memory(),
        })
    }

    fn ran_out_of_memory(&self) -> bool {
        self.group
            .as_ref()
            .is_some_and(ControlGroup::ran_out_of_memory)
    }

    /// Gives its terminal another size, of which the kernel tells the programs on it.
    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        match &self.terminal {
            Some(terminal) => terminal::resize(terminal, size),
            None => Err(Errno::NOTTY.into()),
        }
    }

    /// Signals the process group, while there is one.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.end.is_none() {
            signal_group(self.leader, signal);
        }
    }

    /// Kills all its descendants; without a control group, those still in its process group.
    fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
        self.signal(Signal::KILL);
    }

    /// Kills it, and reports this outcome.
    fn end_with(&mut self, verdict: CommandEnd, now: Instant) {
        self.kill();
        self.verdict = Some(verdict);
        self.deadline = None;
        if self.end.is_none() {
            self.reaped_by = now.checked_add(REAP_TIMEOUT);
        }
    }

    /// Kills it and discards its output. Returns how much content nobody will read.
    pub(crate) fn cancel(&mut self, now: Instant) -> usize {
        self.end_with(CommandEnd::Cancelled, now);
        self.rundown = None;
        self.outputs = Outputs::default();
        self.stdin.as_mut().map_or(0, Stdin::abandon)
    }

    /// Kills it like SIGKILL; its output until then is still read.
    pub(crate) fn end_by_kill(&mut self, now: Instant) {
        self.end_with(CommandEnd::Signaled(Signal::KILL.as_raw()), now);
        if self.end.is_some() {
            // The processes whose output was waited for are killed, too.
            self.rundown = None;
            self.outputs.cut_off();
        }
    }

    /// Returns when [`expire`](Self::expire) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let looks = self.rundown.as_ref().map(Rundown::next);
        let waits = [self.deadline, self.reaped_by, looks];
        waits.into_iter().flatten().min()
    }

    /// Kills it if its time is over; its output until then is still read. Gives up output that
    /// nobody writes, which shows only while there is `room` for it. Returns how much content
    /// nobody will read.
    pub(crate) fn expire(&mut self, now: Instant, room: bool) -> usize {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.end_with(CommandEnd::TimedOut, now);
        }
        let mut unread = 0;
        if self.reaped_by.is_some_and(|deadline| deadline <= now) {
            unread = self.ended(CommandEnd::Signaled(Signal::KILL.as_raw()), now);
        }
        if let Some(rundown) = &mut self.rundown
            && rundown.look(now, room)
        {
            self.stop_waiting();
        }
        unread
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
        }
    }
}
