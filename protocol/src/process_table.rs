//! The table of a guest's commands, independent of how they run.
//!
//! A command belongs to the guest: it continues when the session that started it is lost, and any
//! session can attach to it. Output that the host has not taken is kept, so that a host that comes
//! back misses nothing and gets nothing twice.
//!
//! ```text
//!                 ┌── session lost, detach ──┐
//!   start ─▶ attached ◀────── attach ───── unattended ── too long ──▶ killed, or kept on and
//!                 │                            │                    losing its oldest output
//!               ended                        ended
//!                 ▼                            ▼
//!             answered ── session lost ──▶ unattended ── too long, too many ──▶ forgotten
//!                 └───────────── acknowledged ─────────────────────────────────▶ forgotten
//! ```
//!
//! While the session of a command lives, and for some time after it was lost, the command blocks
//! when nobody takes its output, as at a full pipe.

mod record;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Bound;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{
    MAX_CHUNK, MAX_COMMANDS, MAX_ENDED, MAX_FORGOTTEN, MAX_KEPT_OUTPUT, MAX_LISTED, MAX_PROGRAM,
    MIN_OUTPUT_WINDOW, OUTPUT_WINDOW, UNATTENDED_OUTPUT, UNATTENDED_TICKS, WINDOW,
};
use crate::message::{
    Attach, CommandEnd, CommandInfo, ExecId, FailureKind, Outcome, StdinAt, Stream, ToHost,
};
use crate::os_bytes::OsBytes;
use crate::ring::Ring;
use record::{Ear, Inflow, Record};
pub use record::{Listener, SessionKey};

/// A command that was just started.
#[derive(Debug)]
pub struct NewCommand<'a> {
    /// The id of the command.
    pub exec: ExecId,
    /// The PID of its main process.
    pub pid: u32,
    /// The program.
    pub program: &'a OsBytes,
    /// The host's text for it.
    pub tag: &'a OsBytes,
    /// Whether it continues without a session.
    pub keep: bool,
    /// Whether it has a standard input to write to.
    pub stdin: bool,
}

/// The reason why a command is not started, or not attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A command with this id exists.
    #[error("there is a command of this number")]
    InUse,
    /// A command with this id existed, and is forgotten.
    #[error("the command ended, and was forgotten since nobody asked for its end")]
    Forgotten,
    /// No command with this id exists, or did recently.
    #[error("there is no command of this number")]
    Unknown,
    /// The guest has reached its limit of commands.
    #[error("the guest runs no more than {MAX_COMMANDS} commands at a time")]
    TooMany,
    /// The host claims to have output that was never written.
    #[error("the command has not written that much")]
    Ahead,
}

impl Refusal {
    /// Converts it to an answer for the host.
    #[must_use]
    pub fn kind(self) -> FailureKind {
        match self {
            Self::InUse | Self::Ahead => FailureKind::Invalid,
            Self::Forgotten => FailureKind::Forgotten,
            Self::Unknown => FailureKind::NotFound,
            Self::TooMany => FailureKind::TooMany,
        }
    }
}

/// A violation of the rules for a command's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadContent {
    /// It takes none, or no more.
    Unexpected,
    /// More than was granted.
    OverCredit,
}

/// All commands of a guest. Serializable, for guests that are simulated.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct ProcessTable {
    records: BTreeMap<ExecId, Record>,
    /// Number of commands started.
    started: u64,
    /// Bytes of output that are kept.
    kept: usize,
    forgotten: VecDeque<ExecId>,
    /// Answers to sessions whose command has another listener now.
    notices: VecDeque<(SessionKey, ToHost)>,
}

impl ProcessTable {
    /// Checks whether a command with this id may be started.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check(&self, exec: ExecId) -> Result<(), Refusal> {
        if self.records.contains_key(&exec) {
            return Err(Refusal::InUse);
        }
        if self.forgotten.contains(&exec) {
            return Err(Refusal::Forgotten);
        }
        let running = self.records.values().filter(|record| record.end.is_none());
        if running.count() >= MAX_COMMANDS {
            return Err(Refusal::TooMany);
        }
        Ok(())
    }

    /// Checks whether a command with this id exists, running or ended.
    ///
    /// # Errors
    /// The reason why not.
    pub fn known(&self, exec: ExecId) -> Result<(), Refusal> {
        if self.records.contains_key(&exec) {
            Ok(())
        } else if self.forgotten.contains(&exec) {
            Err(Refusal::Forgotten)
        } else {
            Err(Refusal::Unknown)
        }
    }

    /// Adds a command that was started, as [`check`](Self::check) allowed.
    pub fn start(&mut self, new: &NewCommand<'_>, listener: Listener) {
        let program = new.program.as_bytes();
        let record = Record {
            order: self.started,
            pid: new.pid,
            program: program[..program.len().min(MAX_PROGRAM)].into(),
            tag: new.tag.clone(),
            keep: new.keep,
            ear: Some(Ear::Listening(listener)),
            quiet: 0,
            stdout: Ring::default(),
            stderr: Ring::default(),
            last: Stream::Stderr,
            stdin: new.stdin.then(Inflow::default),
            reader_waits: false,
            out_of_memory: false,
            end: None,
        };
        self.started += 1;
        self.records.insert(new.exec, record);
    }

    /// Returns the command of a request.
    #[must_use]
    pub fn find(&self, by: Listener) -> Option<ExecId> {
        let heard = |record: &Record| matches!(record.ear, Some(Ear::Listening(l)) if l == by);
        let found = self.records.iter().find(|(_, record)| heard(record));
        found.map(|(&exec, _)| exec)
    }

    /// Returns how many requests of a session are open.
    #[must_use]
    pub fn requests(&self, session: SessionKey) -> usize {
        let heard = self.records.values().filter(|r| r.is_heard_by(session));
        heard.count()
    }

    /// Returns how many bytes of a command's output may be read now.
    #[must_use]
    pub fn room(&self, exec: ExecId, stream: Stream) -> usize {
        let Some(record) = self.records.get(&exec) else {
            return 0;
        };
        if record.is_given_up() {
            return MAX_CHUNK;
        }
        let left = MAX_KEPT_OUTPUT.saturating_sub(self.kept);
        let window = (left / 2).clamp(MIN_OUTPUT_WINDOW, OUTPUT_WINDOW as usize);
        let has = match stream {
            Stream::Stdout => record.stdout.len(),
            Stream::Stderr => record.stderr.len(),
            Stream::File => window,
        };
        window.saturating_sub(has)
    }

    /// Adds output of a command, no more than there is [`room`](Self::room) for.
    pub fn push(&mut self, exec: ExecId, stream: Stream, bytes: &[u8]) {
        self.change(exec, |record| {
            let given_up = record.is_given_up();
            if let Some(ring) = record.ring(stream) {
                ring.push(bytes);
                if given_up {
                    ring.keep(UNATTENDED_OUTPUT);
                }
            }
        });
        if self.kept > MAX_KEPT_OUTPUT {
            self.shorten();
        }
    }

    /// Takes memory from commands without a listener if others need it.
    fn shorten(&mut self) {
        let given_up = self.records.iter().filter(|(_, r)| r.is_given_up());
        let given_up: Vec<_> = given_up.map(|(&exec, _)| exec).collect();
        for exec in given_up {
            self.change(exec, |record| {
                record.stdout.keep(MIN_OUTPUT_WINDOW);
                record.stderr.keep(MIN_OUTPUT_WINDOW);
            });
        }
    }

    /// Discards a command's output.
    pub fn clear_output(&mut self, exec: ExecId) {
        self.change(exec, |record| {
            record.stdout.clear();
            record.stderr.clear();
        });
    }

    /// Records the end of a command, after all its output.
    pub fn ended(&mut self, exec: ExecId, end: CommandEnd, out_of_memory: bool) {
        let Some(record) = self.records.get_mut(&exec) else {
            return;
        };
        record.end = Some(end);
        record.out_of_memory = out_of_memory;
        if record.is_given_up() && !record.keep {
            self.forget(exec);
        }
        let ended = self.records.iter().filter(|(_, r)| r.end.is_some());
        if ended.clone().count() > MAX_ENDED {
            // A listener gets the end, which then counts as answered.
            let unheard = ended.filter(|(_, r)| !matches!(r.ear, Some(Ear::Listening(_))));
            if let Some((&oldest, _)) = unheard.min_by_key(|(_, record)| record.order) {
                self.forget(oldest);
            }
        }
    }

    /// Records that the host took a stream up to `offset`; returns `false` if that was not sent.
    #[must_use]
    pub fn taken(&mut self, exec: ExecId, stream: Stream, offset: u64) -> bool {
        let mut sent = true;
        self.change(exec, |record| {
            if let Some(ring) = record.ring(stream) {
                sent = ring.taken(offset);
            }
        });
        sent
    }

    /// Adds content for a command's standard input.
    ///
    /// # Errors
    /// The violation.
    pub fn arrived(&mut self, exec: ExecId, bytes: usize) -> Result<(), BadContent> {
        let stdin = self.open_stdin(exec)?;
        let received = stdin.received + bytes as u64;
        if received - stdin.told > WINDOW.into() {
            return Err(BadContent::OverCredit);
        }
        stdin.received = received;
        Ok(())
    }

    /// Ends that content.
    ///
    /// # Errors
    /// [`BadContent::Unexpected`].
    pub fn content_ended(&mut self, exec: ExecId) -> Result<(), BadContent> {
        self.open_stdin(exec)?.closed = true;
        Ok(())
    }

    fn open_stdin(&mut self, exec: ExecId) -> Result<&mut Inflow, BadContent> {
        let record = self.records.get_mut(&exec);
        let stdin = record.and_then(|record| record.stdin.as_mut());
        let open = stdin.filter(|stdin| !stdin.closed);
        open.ok_or(BadContent::Unexpected)
    }

    /// Records that the command, or nobody, took that many bytes of the content.
    pub fn consumed(&mut self, exec: ExecId, bytes: usize) {
        if let Some(record) = self.records.get_mut(&exec)
            && let Some(stdin) = &mut record.stdin
        {
            stdin.taken = stdin.received.min(stdin.taken + bytes as u64);
        }
    }

    /// Records that a command waits for its standard input, which its listener wanted to know.
    pub fn reader_waits(&mut self, exec: ExecId) {
        if let Some(record) = self.records.get_mut(&exec) {
            record.reader_waits = true;
        }
    }

    /// Attaches a request to a command from some offsets on. Another listener is detached. Returns
    /// the first message for the host.
    ///
    /// # Errors
    /// The reason why it can't.
    pub fn attach(&mut self, attach: Attach, listener: Listener) -> Result<ToHost, Refusal> {
        let exec = attach.exec;
        self.known(exec)?;
        let record = self.records.get_mut(&exec).ok_or(Refusal::Unknown)?;
        if attach.stdout > record.stdout.kept().to || attach.stderr > record.stderr.kept().to {
            return Err(Refusal::Ahead);
        }
        let stdout = record.stdout.rewind(attach.stdout);
        let stderr = record.stderr.rewind(attach.stderr);
        if let Some(Ear::Listening(before)) = record.ear.replace(Ear::Listening(listener)) {
            let done = ToHost::Done {
                id: before.request,
                outcome: Outcome::Detached,
            };
            self.notices.push_back((before.session, done));
        }
        record.quiet = 0;
        record.reader_waits = false;
        let stdin = record.stdin.as_mut().filter(|stdin| !stdin.closed);
        Ok(ToHost::Attached {
            id: listener.request,
            stdout,
            stderr,
            stdin: stdin.map(|stdin| {
                stdin.told = stdin.taken;
                StdinAt {
                    received: stdin.received,
                    taken: stdin.taken,
                }
            }),
            keep: record.keep,
        })
    }

    /// Detaches a request, and answers it.
    pub fn detach(&mut self, by: Listener) {
        let exec = self.find(by);
        if let Some(record) = exec.and_then(|exec| self.records.get_mut(&exec)) {
            record.ear = None;
            record.quiet = 0;
            let done = ToHost::Done {
                id: by.request,
                outcome: Outcome::Detached,
            };
            self.notices.push_back((by.session, done));
        }
    }

    /// Detaches a session.
    pub fn session_lost(&mut self, session: SessionKey) {
        self.notices.retain(|(of, _)| *of != session);
        for record in self.records.values_mut() {
            let its = match record.ear {
                Some(Ear::Listening(listener)) => listener.session == session,
                Some(Ear::Answered(of)) => of == session,
                None => false,
            };
            if its {
                record.ear = None;
                record.quiet = 0;
            }
        }
    }

    /// Detaches all sessions.
    pub fn sessions_lost(&mut self) {
        self.notices.clear();
        for record in self.records.values_mut() {
            record.ear = None;
            record.quiet = 0;
        }
    }

    /// Records that the host has the end of a command. Ignored for a running one.
    pub fn acknowledge(&mut self, exec: ExecId) {
        if self.records.get(&exec).is_some_and(Record::answered)
            && let Some(record) = self.records.remove(&exec)
        {
            // A host that knew of it would not ask for it again.
            self.kept -= record.kept();
        }
    }

    /// Returns the next message for a session, from all its commands in turn.
    pub fn next(&mut self, session: SessionKey, turn: &mut Turn) -> Option<ToHost> {
        if let Some(at) = self.notices.iter().position(|(of, _)| *of == session) {
            return self.notices.remove(at).map(|(_, message)| message);
        }
        let last = turn.0.unwrap_or(ExecId(u64::MAX));
        let behind = (Bound::Excluded(last), Bound::Unbounded);
        for range in [behind, (Bound::Unbounded, Bound::Included(last))] {
            for (&exec, record) in self.records.range_mut(range) {
                if record.is_heard_by(session)
                    && let Some(message) = record.next()
                {
                    turn.0 = Some(exec);
                    return Some(message);
                }
            }
        }
        None
    }

    /// Returns whether to call [`tick`](Self::tick), once a second.
    #[must_use]
    pub fn has_unattended(&self) -> bool {
        let mut unheard = self.records.values().filter(|r| r.ear.is_none());
        unheard.any(|record| record.quiet < UNATTENDED_TICKS)
    }

    /// Counts a second in which the guest ran. Returns the commands to kill, because nobody came
    /// back for them.
    pub fn tick(&mut self) -> Vec<ExecId> {
        let mut over = Vec::new();
        for (&exec, record) in &mut self.records {
            if record.ear.is_none() && record.quiet < UNATTENDED_TICKS {
                record.quiet += 1;
                if record.quiet == UNATTENDED_TICKS && !record.keep {
                    over.push((exec, record.end.is_some()));
                }
            }
        }
        for (exec, _) in over.iter().filter(|(_, ended)| *ended) {
            self.forget(*exec);
        }
        let running = over.into_iter().filter(|(_, ended)| !ended);
        running.map(|(exec, _)| exec).collect()
    }

    /// Makes all commands the guest's own, and kept: the guest is a copy of the one in which they
    /// were started, and its host another.
    pub fn keep_all(&mut self) {
        for record in self.records.values_mut() {
            record.keep = true;
            record.quiet = 0;
        }
    }

    /// Lists the commands that run, or have ended and are not forgotten, in the order of their
    /// start.
    #[must_use]
    pub fn list(&self) -> Vec<CommandInfo> {
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_unstable_by_key(|(_, record)| record.order);
        let info = |(&exec, record): (&ExecId, &Record)| CommandInfo {
            exec,
            pid: record.pid,
            program: record.program.clone(),
            tag: record.tag.clone(),
            keep: record.keep,
            attached: matches!(record.ear, Some(Ear::Listening(_))),
            end: record.end,
            stdout: record.stdout.kept(),
            stderr: record.stderr.kept(),
        };
        records.into_iter().map(info).take(MAX_LISTED).collect()
    }

    fn change(&mut self, exec: ExecId, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(&exec) {
            let before = record.kept();
            change(record);
            self.kept = self.kept - before + record.kept();
        }
    }

    fn forget(&mut self, exec: ExecId) {
        if let Some(record) = self.records.remove(&exec) {
            self.kept -= record.kept();
            if self.forgotten.len() >= MAX_FORGOTTEN {
                self.forgotten.pop_front();
            }
            self.forgotten.push_back(exec);
        }
    }
}

/// Returns whose turn it is in a session.
#[derive(Debug, Default)]
pub struct Turn(Option<ExecId>);
