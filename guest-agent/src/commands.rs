//! All commands of the guest: their table, and the processes of running ones.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ironclaw_protocol::message::{
    Attach, CommandEnd, CommandInfo, Exec, ExecId, FailureKind, Outcome, Stream, TerminalSize,
    ToHost,
};
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::process_table::{
    Listener, NewCommand, ProcessTable, Refusal, SessionKey, Turn,
};
use ironclaw_protocol::session::Violation;
use rustix::event::PollFlags;
use rustix::process::{Pid, Signal};

use crate::command::Command;
use crate::failure::failed;
use crate::program::Surroundings;
use crate::system::System;

/// Interval of checks for commands without a listener. Checks are counted, not time: a guest that
/// was stopped, or a copy that continues hours later, has not been waiting.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// A pipe of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pipe {
    exec: ExecId,
    end: PipeEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PipeEnd {
    Stdin,
    Stdout,
    Stderr,
}

/// The outputs of a command, and the pipe of each.
const OUTPUTS: [(Stream, PipeEnd); 2] = [
    (Stream::Stdout, PipeEnd::Stdout),
    (Stream::Stderr, PipeEnd::Stderr),
];

/// The commands. Dropping them kills their processes.
#[derive(Debug)]
pub(crate) struct Commands {
    table: ProcessTable,
    running: BTreeMap<ExecId, Box<Command>>,
    tick: Duration,
    /// The time of the next check for commands without a listener.
    next_tick: Option<Instant>,
}

impl Default for Commands {
    fn default() -> Self {
        Self::with_tick(TICK_INTERVAL)
    }
}

impl Commands {
    /// Creates an empty table, with this interval of checks.
    pub(crate) fn with_tick(tick: Duration) -> Self {
        Self {
            table: ProcessTable::default(),
            running: BTreeMap::new(),
            tick,
            next_tick: None,
        }
    }

    /// Starts the command in `exec`.
    pub(crate) fn start(
        &mut self,
        exec: &Exec,
        listener: Listener,
        surroundings: &Surroundings,
        system: &mut dyn System,
    ) -> Result<(), Outcome> {
        let program = exec.program().cloned().unwrap_or_default();
        self.table
            .check(exec.id)
            .map_err(|refusal| refused("run", &program, refusal))?;
        let command = Command::start(exec, surroundings, system)?;
        let new = NewCommand {
            exec: exec.id,
            pid: command.pid(),
            program: &program,
            tag: &exec.tag,
            keep: exec.keep,
            stdin: exec.stdin,
        };
        self.table.start(&new, listener);
        self.running.insert(exec.id, Box::new(command));
        Ok(())
    }

    /// Attaches a request to a command; returns the first answer.
    pub(crate) fn attach(&mut self, attach: Attach, listener: Listener) -> Result<ToHost, Outcome> {
        self.table
            .attach(attach, listener)
            .map_err(|refusal| refused_by_number("listen to", attach.exec, refusal))
    }

    /// Lists the commands, for a host.
    pub(crate) fn list(&self) -> Vec<CommandInfo> {
        self.table.list()
    }

    /// Returns whether a request is about a command.
    pub(crate) fn is_open(&self, by: Listener) -> bool {
        self.table.find(by).is_some()
    }

    /// Returns how many requests of a session are about commands.
    pub(crate) fn requests(&self, session: SessionKey) -> usize {
        self.table.requests(session)
    }

    /// Passes content to the standard input of a request's command.
    pub(crate) fn content(&mut self, by: Listener, bytes: Vec<u8>) -> Result<(), Violation> {
        let Some(exec) = self.table.content_arrived(by, bytes.len())? else {
            return Ok(());
        };
        let consumed = match self.running.get_mut(&exec).and_then(|c| c.stdin()) {
            Some(stdin) => stdin.arrive(bytes),
            None => bytes.len(),
        };
        self.table.consumed(exec, consumed);
        Ok(())
    }

    /// Ends that standard input.
    pub(crate) fn end_of_content(&mut self, by: Listener) -> Result<(), Violation> {
        let ended = self.table.end_of_content_arrived(by)?;
        let command = ended.and_then(|exec| self.running.get_mut(&exec));
        if let Some(stdin) = command.and_then(|command| command.stdin()) {
            stdin.close(Instant::now());
        }
        Ok(())
    }

    /// Records that the host took a stream up to an offset.
    pub(crate) fn taken(
        &mut self,
        by: Listener,
        stream: Stream,
        offset: u64,
    ) -> Result<(), Violation> {
        self.table.acknowledged(by, stream, offset)
    }

    /// Signals a request's command.
    pub(crate) fn signal(&self, by: Listener, signal: Signal) {
        if let Some(command) = self.table.find(by).and_then(|exec| self.running.get(&exec)) {
            command.signal(signal);
        }
    }

    /// Signals any command.
    pub(crate) fn signal_any(&self, exec: ExecId, signal: Signal) -> Outcome {
        match self.table.known(exec) {
            Ok(()) => {
                if let Some(command) = self.running.get(&exec) {
                    command.signal(signal);
                }
                Outcome::Delivered
            }
            Err(refusal) => refused_by_number("signal", exec, refusal),
        }
    }

    /// Gives the terminal of a request's command another size.
    pub(crate) fn resize(&self, by: Listener, size: TerminalSize) {
        if let Some(command) = self.table.find(by).and_then(|exec| self.running.get(&exec)) {
            // Without one there is nothing to do, and nobody to tell.
            let _ = command.resize(size);
        }
    }

    /// Gives the terminal of any command another size.
    pub(crate) fn resize_any(&self, exec: ExecId, size: TerminalSize) -> Outcome {
        if let Err(refusal) = self.table.known(exec) {
            return refused_by_number("resize the terminal of", exec, refusal);
        }
        let resized = self.running.get(&exec).map(|command| command.resize(size));
        match resized {
            None | Some(Ok(())) => Outcome::Delivered,
            Some(Err(error)) => {
                let attempt = format_args!("resize the terminal of command {:016x}", exec.0);
                crate::failure::refused(attempt, &error, FailureKind::Io)
            }
        }
    }

    /// Kills any command, with all its descendants.
    pub(crate) fn kill(&mut self, exec: ExecId) -> Outcome {
        match self.table.known(exec) {
            Ok(()) => {
                if let Some(command) = self.running.get_mut(&exec) {
                    command.end_by_kill(Instant::now());
                }
                Outcome::Delivered
            }
            Err(refusal) => refused_by_number("kill", exec, refusal),
        }
    }

    /// Cancels a request's command; the answer comes when its main process is gone.
    pub(crate) fn cancel(&mut self, by: Listener) {
        if let Some(exec) = self.table.find(by) {
            self.table.clear_output(exec);
            self.cancel_processes(exec);
        }
    }

    fn cancel_processes(&mut self, exec: ExecId) {
        if let Some(command) = self.running.get_mut(&exec) {
            let unread = command.cancel(Instant::now());
            self.table.consumed(exec, unread);
        }
    }

    /// Detaches a request.
    pub(crate) fn detach(&mut self, by: Listener) {
        self.table.detach(by);
    }

    /// Records that the host has the end of a command.
    pub(crate) fn acknowledge(&mut self, exec: ExecId) {
        self.table.acknowledge(exec);
    }

    /// Records that the host wants to know when a request's command waits for its standard input.
    pub(crate) fn await_reader(&mut self, by: Listener) {
        let exec = self.table.find(by);
        let command = exec.and_then(|exec| self.running.get_mut(&exec));
        if let Some(stdin) = command.and_then(|command| command.stdin()) {
            stdin.await_reader(Instant::now());
        }
    }

    /// Detaches a session; its commands continue.
    pub(crate) fn session_lost(&mut self, session: SessionKey) {
        self.table.session_lost(session);
    }

    /// Detaches all commands, whoever started them: the guest is a copy.
    pub(crate) fn keep_all(&mut self) {
        self.table.keep_all();
    }

    /// Returns the next message for a session.
    pub(crate) fn next(&mut self, session: SessionKey, turn: &mut Turn) -> Option<ToHost> {
        self.table.next(session, turn)
    }

    /// Returns whether no command runs.
    pub(crate) fn are_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Returns the descriptors to wait for, each with the pipe to serve when it is ready.
    pub(crate) fn waits<'a>(&'a self, add: &mut dyn FnMut(BorrowedFd<'a>, PollFlags, Pipe)) {
        for (&exec, command) in &self.running {
            if let Some(pipe) = command.stdin_to_write() {
                let end = PipeEnd::Stdin;
                add(pipe, PollFlags::OUT, Pipe { exec, end });
            }
            for (stream, end) in OUTPUTS {
                if let Some(pipe) = command.to_wait_for(stream)
                    && self.table.room(exec, stream) > 0
                {
                    add(pipe, PollFlags::IN, Pipe { exec, end });
                }
            }
        }
    }

    /// Adds the pipes to read without waiting.
    pub(crate) fn ready(&self, ready: &mut Vec<Pipe>) {
        for (&exec, command) in &self.running {
            let ends = OUTPUTS.into_iter();
            let ends = ends.filter(|(stream, _)| {
                command.is_ready(*stream) && self.table.room(exec, *stream) > 0
            });
            ready.extend(ends.map(|(_, end)| Pipe { exec, end }));
        }
    }

    /// Reads from and writes to the `ready` pipes.
    pub(crate) fn serve(&mut self, ready: &[Pipe], buffer: &mut [u8]) {
        for &Pipe { exec, end } in ready {
            let Some(command) = self.running.get_mut(&exec) else {
                continue;
            };
            let stream = match end {
                PipeEnd::Stdin => {
                    let consumed = command.stdin().map_or(0, |stdin| stdin.write());
                    self.table.consumed(exec, consumed);
                    continue;
                }
                PipeEnd::Stdout => Stream::Stdout,
                PipeEnd::Stderr => Stream::Stderr,
            };
            let room = self.table.room(exec, stream);
            let bytes = command.read(stream, room, buffer);
            self.table.push(exec, stream, bytes);
        }
    }

    /// Reports the reaping of `pid` to its command, if there is one.
    pub(crate) fn ended(&mut self, pid: Pid, end: CommandEnd) {
        for (&exec, command) in &mut self.running {
            if command.leader() == Some(pid) {
                let unread = command.ended(end, Instant::now());
                self.table.consumed(exec, unread);
                return;
            }
        }
    }

    /// Returns when [`expire`](Self::expire) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let commands = self.running.values();
        let own = commands.flat_map(|command| [command.deadline(), command.next_look()]);
        own.chain([self.next_tick]).flatten().min()
    }

    /// Kills commands whose time is over, gives up output that nobody writes, checks for readers,
    /// and records ended commands.
    pub(crate) fn expire(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (&exec, command) in &mut self.running {
            let room = |stream| self.table.room(exec, stream) > 0;
            let unread = command.expire(now, room(Stream::Stdout) && room(Stream::Stderr));
            self.table.consumed(exec, unread);
            if command.stdin().is_some_and(|stdin| stdin.look(now)) {
                self.table.reader_waits(exec);
            }
            if let Some(ended) = command.over() {
                over.push((exec, ended));
            }
        }
        for (exec, ended) in over {
            self.running.remove(&exec);
            self.table.ended(exec, ended.end, ended.out_of_memory);
        }
        self.count_unattended(now);
    }

    fn count_unattended(&mut self, now: Instant) {
        if !self.table.has_unattended() {
            self.next_tick = None;
            return;
        }
        match self.next_tick {
            Some(next) if now < next => return,
            Some(_) => {
                for exec in self.table.tick() {
                    self.table.clear_output(exec);
                    self.cancel_processes(exec);
                }
            }
            None => {}
        }
        self.next_tick = now.checked_add(self.tick);
    }
}

fn refused(attempt: &str, program: &OsBytes, refusal: Refusal) -> Outcome {
    failed(
        refusal.kind(),
        format_args!("{attempt} {program}: {refusal}"),
    )
}

fn refused_by_number(attempt: &str, exec: ExecId, refusal: Refusal) -> Outcome {
    let number = exec.0;
    failed(
        refusal.kind(),
        format_args!("{attempt} command {number:016x}: {refusal}"),
    )
}
