//! A command that the host asked for, from its start to its end.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command as Spawn, Stdio};
use std::time::{Duration, Instant};

use ironclaw_protocol::message::{CommandEnd, Exec, FailureKind, Outcome, Stream};
use ironclaw_protocol::os_bytes::OsBytes;
use rustix::process::{Pid, Signal};

use crate::children::signal_group;
use crate::control_group::ControlGroup;
use crate::failure::refused;
use crate::output::{Chunk, CommandEnds, Outputs, nonblocking, open_pipe};
use crate::program::Surroundings;
use crate::rundown::Rundown;
use crate::stdin::Stdin;
use crate::system::System;

/// How long the main process of a command that was killed is waited for. With hundreds of others that
/// die it takes its turn among them, and none of them runs a program any more.
const REAPED: Duration = Duration::from_millis(250);

/// The processes of an `Exec`, and their pipes.
///
/// Its end has two halves: the main process was reaped, and its output ended. Of processes that
/// outlive it and keep the output open, not much is waited for: see [`Rundown`]. They live on.
///
/// Dropping it before its end kills all its processes.
#[derive(Debug)]
pub(crate) struct Command {
    leader: Pid,
    group: Option<ControlGroup>,
    stdin: Option<Stdin>,
    outputs: Outputs,
    deadline: Option<Instant>,
    /// What to tell instead of how the process ended, which the agent itself killed.
    verdict: Option<CommandEnd>,
    /// Until when a main process that was killed is waited for.
    reaped_by: Option<Instant>,
    end: Option<CommandEnd>,
    rundown: Option<Rundown>,
    over: bool,
}

/// How a command ended, when all that it wrote is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) end: CommandEnd,
    /// Whether the kernel killed one of its processes for lack of memory.
    pub(crate) out_of_memory: bool,
}

/// Standard input as the command gets it, and the agent's end, if it is written to.
fn open_stdin(exec: &Exec) -> io::Result<(Stdio, Option<Stdin>)> {
    if !exec.stdin {
        return Ok((Stdio::null(), None));
    }
    let (reader, writer) = open_pipe()?;
    Ok((reader.into(), Some(Stdin::new(nonblocking(writer)?))))
}

pub(crate) fn os(bytes: &OsBytes) -> &OsStr {
    OsStr::from_bytes(bytes.as_bytes())
}

impl Command {
    /// Starts what `exec` says.
    pub(crate) fn start(
        exec: &Exec,
        surroundings: &Surroundings,
        system: &mut dyn System,
    ) -> Result<Self, Outcome> {
        let directory = surroundings.directory(exec)?;
        let program = surroundings.program(exec, &directory)?;
        let name = exec.argv.first().map_or(OsStr::new(""), os);
        let no_pipes = |error: io::Error| {
            let attempt = format_args!("set up the pipes of {}", name.display());
            refused(attempt, &error, FailureKind::Io)
        };
        let (command_stdin, stdin) = open_stdin(exec).map_err(no_pipes)?;
        let (outputs, CommandEnds { stdout, stderr }) =
            Outputs::open(exec.stderr).map_err(no_pipes)?;
        let mut spawn = Spawn::new(program);
        spawn
            .arg0(name)
            .args(exec.argv.iter().skip(1).map(os))
            .env_clear()
            .envs(surroundings.env.iter().map(|(name, value)| (name, value)))
            .envs(exec.env.iter().map(|(name, value)| (os(name), os(value))))
            .current_dir(directory)
            .process_group(0)
            .stdin(command_stdin)
            .stdout(stdout)
            .stderr(stderr);
        let started = Instant::now();
        let (child, group) = system.spawn(&mut spawn);
        // The file was found before, so what is missing is the interpreter it names.
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
            stdin,
            outputs,
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

    /// The number that its main process has or had.
    pub(crate) fn pid(&self) -> u32 {
        self.leader.as_raw_pid().unsigned_abs()
    }

    /// The number of its main process, until that was reaped.
    pub(crate) fn leader(&self) -> Option<Pid> {
        self.end.is_none().then_some(self.leader)
    }

    /// Standard input, if the host said that it sends some.
    pub(crate) fn stdin(&mut self) -> Option<&mut Stdin> {
        self.stdin.as_mut()
    }

    /// When to look whether somebody waits for standard input.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.stdin.as_ref().and_then(Stdin::next_look)
    }

    /// The pipe to standard input, if there is something to write.
    pub(crate) fn stdin_to_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().and_then(Stdin::to_write)
    }

    /// The pipe of `stream`, to be waited for.
    pub(crate) fn to_wait_for(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.outputs.to_wait_for(stream)
    }

    /// Whether `stream` is to be read at once.
    pub(crate) fn is_ready(&self, stream: Stream) -> bool {
        self.outputs.is_ready(stream)
    }

    /// Reads what there is of `stream`, into as much of `buffer` as there is room for.
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

    /// The main process was reaped. Gives how much content nobody will read.
    pub(crate) fn ended(&mut self, end: CommandEnd, now: Instant) -> usize {
        self.end = Some(end);
        self.deadline = None;
        self.reaped_by = None;
        if self.verdict.is_some() {
            // All that could write more was killed with it.
            self.outputs.cut_off();
        } else {
            self.outputs.look_at_once();
            self.rundown = Some(Rundown::start(now));
        }
        self.stdin.as_mut().map_or(0, Stdin::abandon)
    }

    /// How it ended, when it has and its output is read.
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

    /// Sends a signal to the process group, while there is one.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.end.is_none() {
            signal_group(self.leader, signal);
        }
    }

    /// Kills all that descends from it; without a control group, what is still in its process group.
    fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
        self.signal(Signal::KILL);
    }

    /// Kills it, which is to be told so.
    fn end_with(&mut self, verdict: CommandEnd, now: Instant) {
        self.kill();
        self.verdict = Some(verdict);
        self.deadline = None;
        if self.end.is_none() {
            self.reaped_by = now.checked_add(REAPED);
        }
    }

    /// Kills it; its output is of no interest any more. Gives how much content nobody will read.
    pub(crate) fn cancel(&mut self, now: Instant) -> usize {
        self.end_with(CommandEnd::Cancelled, now);
        self.rundown = None;
        self.outputs = Outputs::default();
        self.stdin.as_mut().map_or(0, Stdin::abandon)
    }

    /// Kills it as a signal does that nothing survives; what it wrote until then is still read.
    pub(crate) fn end_by_kill(&mut self, now: Instant) {
        self.end_with(CommandEnd::Signaled(Signal::KILL.as_raw()), now);
        if self.end.is_some() {
            // Its output was waited for, which those have that are killed now.
            self.rundown = None;
            self.outputs.cut_off();
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let looks = self.rundown.as_ref().map(Rundown::next);
        let waits = [self.deadline, self.reaped_by, looks];
        waits.into_iter().flatten().min()
    }

    /// Kills it if its time is over; what it wrote until then is still read. Gives up on its output if
    /// nobody writes it, which is told only while there is `room` for it. Gives how much content nobody
    /// will read.
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
