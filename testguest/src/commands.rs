//! All commands of the guest: their table, and the tasks of running ones.

use alloc::collections::BTreeMap;
use alloc::format;
use core::time::Duration;

use ironclaw_protocol::message::{
    Attach, CommandEnd, CommandInfo, Exec, ExecId, Failure, FailureKind, Outcome, Stream, ToHost,
    bounded_text,
};
use ironclaw_protocol::process_table::{
    Listener, NewCommand, ProcessTable, Refusal, SessionKey, Turn,
};
use ironclaw_protocol::session::Violation;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::task::{Advance, Task, Work};

/// Limit of running commands. Each may hold a window of content, and memory is small.
const MAX_RUNNING: usize = 128;

/// Interval of checks for commands without a listener.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Signals that a process ignores by default: CHLD, CONT, URG, WINCH.
const IGNORED_SIGNALS: [i32; 4] = [17, 18, 23, 28];

/// The commands.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Commands {
    table: ProcessTable,
    running: BTreeMap<ExecId, Task>,
    /// The time of the next check for commands without a listener.
    next_tick: Option<Duration>,
    started: u32,
}

impl Commands {
    /// Checks whether `exec` may be started.
    pub(crate) fn check(&self, exec: &Exec) -> Result<(), Failure> {
        if self.running.len() >= MAX_RUNNING {
            let message = format!("the guest runs no more than {MAX_RUNNING} commands at a time");
            return Err(Failure {
                kind: FailureKind::TooMany,
                message,
            });
        }
        self.table.check(exec.id).map_err(refused)
    }

    /// Starts `work` as a command that was checked.
    pub(crate) fn start(&mut self, exec: &Exec, work: Work, listener: Listener, now: Duration) {
        self.started = self.started.wrapping_add(1);
        let program = exec.program().cloned().unwrap_or_default();
        let new = NewCommand {
            exec: exec.id,
            pid: self.started,
            program: &program,
            tag: &exec.tag,
            keep: exec.keep,
            stdin: exec.stdin,
        };
        self.table.start(&new, listener);
        let timeout = exec.timeout_ms.map(Duration::from_millis);
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        self.running
            .insert(exec.id, Task::new(work, exec.stdin, deadline));
    }

    pub(crate) fn attach(&mut self, attach: Attach, listener: Listener) -> Result<ToHost, Outcome> {
        let attached = self.table.attach(attach, listener);
        attached.map_err(|refusal| Outcome::Failed(refused(refusal)))
    }

    pub(crate) fn list(&self) -> Outcome {
        let list: alloc::vec::Vec<CommandInfo> = self.table.list();
        Outcome::Commands(list)
    }

    pub(crate) fn is_open(&self, by: Listener) -> bool {
        self.table.find(by).is_some()
    }

    pub(crate) fn requests(&self, session: SessionKey) -> usize {
        self.table.requests(session)
    }

    pub(crate) fn content(&mut self, by: Listener, bytes: &[u8]) -> Result<(), Violation> {
        let found = self.table.content_arrived(by, bytes.len())?;
        if let Some(task) = found.and_then(|exec| self.running.get_mut(&exec)) {
            task.content(bytes);
        }
        Ok(())
    }

    pub(crate) fn end_of_content(&mut self, by: Listener) -> Result<(), Violation> {
        let ended = self.table.end_of_content_arrived(by)?;
        if let Some(task) = ended.and_then(|exec| self.running.get_mut(&exec)) {
            task.end_of_content();
        }
        Ok(())
    }

    pub(crate) fn taken(
        &mut self,
        by: Listener,
        stream: Stream,
        offset: u64,
    ) -> Result<(), Violation> {
        self.table.acknowledged(by, stream, offset)
    }

    pub(crate) fn await_reader(&mut self, by: Listener) {
        let exec = self.table.find(by);
        if let Some(task) = exec.and_then(|exec| self.running.get_mut(&exec)) {
            task.await_reader();
        }
    }

    pub(crate) fn signal(&mut self, by: Listener, signal: i32) {
        if let Some(exec) = self.table.find(by) {
            self.send_signal(exec, signal);
        }
    }

    fn send_signal(&mut self, exec: ExecId, signal: i32) {
        if !IGNORED_SIGNALS.contains(&signal) {
            self.end(exec, CommandEnd::Signaled(signal));
        }
    }

    /// Signals any command, or kills it.
    pub(crate) fn signal_any(&mut self, exec: ExecId, signal: i32) -> Outcome {
        match self.table.known(exec) {
            Ok(()) => {
                self.send_signal(exec, signal);
                Outcome::Delivered
            }
            Err(refusal) => Outcome::Failed(refused(refusal)),
        }
    }

    pub(crate) fn cancel(&mut self, by: Listener) {
        if let Some(exec) = self.table.find(by) {
            self.give_up(exec);
        }
    }

    fn give_up(&mut self, exec: ExecId) {
        self.table.clear_output(exec);
        self.end(exec, CommandEnd::Cancelled);
    }

    fn end(&mut self, exec: ExecId, end: CommandEnd) {
        if self.running.remove(&exec).is_some() {
            self.table.ended(exec, end, false);
        }
    }

    pub(crate) fn detach(&mut self, by: Listener) {
        self.table.detach(by);
    }

    pub(crate) fn acknowledge(&mut self, exec: ExecId) {
        self.table.acknowledge(exec);
    }

    /// Detaches a session; its commands continue.
    pub(crate) fn session_lost(&mut self, session: SessionKey) {
        self.table.session_lost(session);
    }

    /// Detaches all sessions.
    pub(crate) fn lose_sessions(&mut self) {
        self.table.sessions_lost();
    }

    /// Detaches all commands, whoever started them: the guest is a copy.
    pub(crate) fn keep_all(&mut self) {
        self.table.keep_all();
    }

    /// Returns the next message for a session.
    pub(crate) fn next(&mut self, session: SessionKey, turn: &mut Turn) -> Option<ToHost> {
        self.table.next(session, turn)
    }

    /// Returns when [`work`](Self::work) is due without an event.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        let own = self.running.values().filter_map(Task::wakes_at).min();
        own.into_iter().chain(self.next_tick).min()
    }

    /// Adjusts to another clock.
    pub(crate) fn moved(&mut self, then: Duration, now: Duration) {
        self.next_tick = None;
        for task in self.running.values_mut() {
            task.moved(then, now);
        }
    }

    /// Gives each command one turn. Returns whether anything was done, and there may be more to do.
    pub(crate) fn work(&mut self, machine: &mut dyn Machine) -> bool {
        let mut worked = self.count_unattended(machine.uptime());
        let mut over = alloc::vec::Vec::new();
        for (&exec, task) in &mut self.running {
            let progress = task.step(|stream| self.table.room(exec, stream), machine);
            worked |= progress != Advance::Waiting;
            match progress {
                Advance::Waiting | Advance::Worked => {}
                Advance::Wrote(stream, bytes, taken) => {
                    self.table.push(exec, stream, &bytes);
                    self.table.consumed(exec, taken);
                }
                Advance::WaitsForContent => self.table.reader_waits(exec),
                Advance::Ended(end) => over.push((exec, end)),
            }
        }
        for (exec, end) in over {
            self.end(exec, end);
        }
        worked
    }

    fn count_unattended(&mut self, now: Duration) -> bool {
        if !self.table.has_unattended() {
            self.next_tick = None;
            return false;
        }
        match self.next_tick {
            Some(next) if now < next => return false,
            Some(_) => {
                for exec in self.table.tick() {
                    self.give_up(exec);
                }
            }
            None => {}
        }
        self.next_tick = Some(now + TICK_INTERVAL);
        true
    }
}

fn refused(refusal: Refusal) -> Failure {
    Failure {
        kind: refusal.kind(),
        message: bounded_text(format!("{refusal}")),
    }
}
