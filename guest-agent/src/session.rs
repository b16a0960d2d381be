//! The requests of one session: what the host may say when, and who may answer next.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use ironclaw_protocol::limits::MAX_REQUESTS;
use ironclaw_protocol::message::{
    FailureKind, Outcome, Request, RequestId, Stream, ToGuest, ToHost,
};
use rustix::event::PollFlags;
use rustix::process::{Pid, Signal};

use crate::command::Command;
use crate::download::Download;
use crate::failure::failed;
use crate::outgoing::Outgoing;
use crate::program::Surroundings;
use crate::system::System;
use crate::upload::Upload;
use crate::violation::Violation;

/// What a session needs from the agent to serve a message.
pub(crate) struct Context<'a> {
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) system: &'a mut dyn System,
    /// Set when the host asked to power off.
    pub(crate) shutdown: &'a mut bool,
}

/// One direction of one request. The order is the one in which they are served in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    id: RequestId,
    lane: Lane,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Stdin,
    Stdout,
    Stderr,
    File,
}

/// A command's output, and the lane of each stream.
const OUTPUTS: [(Stream, Lane); 2] = [
    (Stream::Stdout, Lane::Stdout),
    (Stream::Stderr, Lane::Stderr),
];

#[derive(Debug)]
enum Open {
    Command(Box<Command>),
    Upload(Upload),
    Download(Download),
}

/// The open requests. Dropping them kills their processes and removes their half-written files.
#[derive(Debug, Default)]
pub(crate) struct Session {
    open: BTreeMap<RequestId, Open>,
    /// The source that sent content last; the next turn begins behind it.
    last: Option<Source>,
}

impl Session {
    /// Serves a message that was validated.
    ///
    /// What refers to a request that is not open is ignored: it was under way when the request
    /// ended, and the host could not know.
    pub(crate) fn receive(
        &mut self,
        message: ToGuest,
        context: &mut Context<'_>,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        match message {
            ToGuest::Hello { .. } => Err(Violation::SecondHello),
            ToGuest::Request { id, request } => self.start(id, request, context, out),
            ToGuest::Data { id, bytes } => self.content(id, bytes, out),
            ToGuest::Eof { id } => self.end_of_content(id, out),
            ToGuest::Credit { id, bytes } => {
                match self.open.get_mut(&id) {
                    Some(Open::Command(command)) => command.grant(bytes),
                    Some(Open::Download(download)) => download.grant(bytes),
                    Some(Open::Upload(_)) | None => {}
                }
                Ok(())
            }
            ToGuest::Signal { id, signal } => {
                // A number that was validated has a name.
                if let Some(signal) = Signal::from_named_raw(signal)
                    && let Some(Open::Command(command)) = self.open.get(&id)
                {
                    command.signal(signal);
                }
                Ok(())
            }
            ToGuest::Cancel { id } => {
                self.cancel(id, out);
                Ok(())
            }
            ToGuest::AwaitReader { id } => {
                if let Some(Open::Command(command)) = self.open.get_mut(&id)
                    && let Some(stdin) = command.stdin()
                {
                    stdin.await_reader(Instant::now());
                }
                Ok(())
            }
        }
    }

    fn start(
        &mut self,
        id: RequestId,
        request: Request,
        context: &mut Context<'_>,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        if self.open.contains_key(&id) {
            return Err(Violation::IdInUse(id));
        }
        if self.open.len() >= MAX_REQUESTS {
            return Err(Violation::TooManyRequests);
        }
        let started = match request {
            Request::Ping => Err(Outcome::Pong),
            Request::Restored(restored) => Err(context.system.become_clone(&restored)),
            Request::Exec(exec) => Command::start(id, &exec, context.surroundings, context.system)
                .map(|command| Open::Command(Box::new(command))),
            Request::PutFile(put) => Upload::start(id, &put).map(Open::Upload),
            Request::GetFile(get) => Download::start(id, &get).map(Open::Download),
            Request::Shutdown => {
                *context.shutdown = true;
                Err(Outcome::ShuttingDown)
            }
        };
        match started {
            Ok(open) => {
                self.open.insert(id, open);
            }
            Err(outcome) => out.push(&ToHost::Done { id, outcome }),
        }
        Ok(())
    }

    fn content(
        &mut self,
        id: RequestId,
        bytes: Vec<u8>,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        match self.open.get_mut(&id) {
            None => Ok(()),
            Some(Open::Command(command)) => match command.stdin() {
                Some(stdin) if !stdin.is_closed() => stdin.arrive(bytes, out),
                _ => Err(Violation::UnexpectedContent(id)),
            },
            Some(Open::Upload(upload)) => {
                if let Err(outcome) = upload.arrive(&bytes, out)? {
                    self.finish(id, outcome, out);
                }
                Ok(())
            }
            Some(Open::Download(_)) => Err(Violation::UnexpectedContent(id)),
        }
    }

    fn end_of_content(&mut self, id: RequestId, out: &mut Outgoing) -> Result<(), Violation> {
        match self.open.remove(&id) {
            None => {}
            Some(Open::Upload(upload)) => out.push(&ToHost::Done {
                id,
                outcome: upload.finish(),
            }),
            Some(Open::Command(mut command)) => {
                match command.stdin() {
                    Some(stdin) if !stdin.is_closed() => stdin.close(),
                    _ => return Err(Violation::UnexpectedContent(id)),
                }
                self.open.insert(id, Open::Command(command));
            }
            Some(Open::Download(_)) => return Err(Violation::UnexpectedContent(id)),
        }
        Ok(())
    }

    fn cancel(&mut self, id: RequestId, out: &mut Outgoing) {
        match self.open.get_mut(&id) {
            None => {}
            // Answered when its main process is gone.
            Some(Open::Command(command)) => command.cancel(Instant::now(), out),
            Some(Open::Upload(_) | Open::Download(_)) => {
                let outcome = failed(FailureKind::Cancelled, "the host cancelled the transfer");
                self.finish(id, outcome, out);
            }
        }
    }

    fn finish(&mut self, id: RequestId, outcome: Outcome, out: &mut Outgoing) {
        // Dropped first: when the host has the answer, nothing of the request is left.
        drop(self.open.remove(&id));
        out.push(&ToHost::Done { id, outcome });
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// The descriptors to wait for, each with the source to serve when it is ready.
    pub(crate) fn waits<'a>(
        &'a self,
        out: &Outgoing,
        add: &mut dyn FnMut(BorrowedFd<'a>, PollFlags, Source),
    ) {
        for (&id, open) in &self.open {
            let Open::Command(command) = open else {
                continue;
            };
            if let Some(pipe) = command.stdin_to_write() {
                add(
                    pipe,
                    PollFlags::OUT,
                    Source {
                        id,
                        lane: Lane::Stdin,
                    },
                );
            }
            if !out.has_room() {
                continue;
            }
            for (stream, lane) in OUTPUTS {
                if let Some(pipe) = command.to_wait_for(stream) {
                    add(pipe, PollFlags::IN, Source { id, lane });
                }
            }
        }
    }

    /// Adds the sources that have content without waiting for anything.
    pub(crate) fn ready_sources(&self, out: &Outgoing, ready: &mut Vec<Source>) {
        if !out.has_room() {
            return;
        }
        for (&id, open) in &self.open {
            match open {
                Open::Download(download) if download.has_credit() => {
                    ready.push(Source {
                        id,
                        lane: Lane::File,
                    });
                }
                Open::Command(command) => {
                    let lanes = OUTPUTS.into_iter().filter(|(s, _)| command.is_ready(*s));
                    ready.extend(lanes.map(|(_, lane)| Source { id, lane }));
                }
                _ => {}
            }
        }
    }

    /// Lets each of the `ready` sources move one chunk, in turn, while there is room for it.
    pub(crate) fn serve(&mut self, mut ready: Vec<Source>, buffer: &mut [u8], out: &mut Outgoing) {
        ready.sort_unstable();
        ready.dedup();
        if let Some(last) = self.last {
            let behind = ready.partition_point(|source| *source <= last);
            ready.rotate_left(behind);
        }
        for source in ready {
            let id = source.id;
            if source.lane != Lane::Stdin {
                if !out.has_room() {
                    continue;
                }
                self.last = Some(source);
            }
            let outcome = match (self.open.get_mut(&id), source.lane) {
                (Some(Open::Command(command)), Lane::Stdin) => {
                    if let Some(stdin) = command.stdin() {
                        stdin.write(out);
                    }
                    None
                }
                (Some(Open::Command(command)), Lane::Stdout) => {
                    command.send(Stream::Stdout, buffer, out);
                    None
                }
                (Some(Open::Command(command)), Lane::Stderr) => {
                    command.send(Stream::Stderr, buffer, out);
                    None
                }
                (Some(Open::Download(download)), Lane::File) => download.send(buffer, out),
                _ => None,
            };
            if let Some(outcome) = outcome {
                self.finish(id, outcome, out);
            }
        }
    }

    /// Tells the command whose main process is `pid`, if there is one, that it was reaped.
    pub(crate) fn ended(&mut self, pid: Pid, end: &Outcome, out: &mut Outgoing) {
        for open in self.open.values_mut() {
            if let Open::Command(command) = open
                && command.leader() == Some(pid)
            {
                command.ended(end.clone(), Instant::now(), out);
                return;
            }
        }
    }

    /// Answers the commands that are over.
    pub(crate) fn answer(&mut self, out: &mut Outgoing) {
        self.open.retain(|&id, open| {
            let Open::Command(command) = open else {
                return true;
            };
            let Some(outcome) = command.answer() else {
                return true;
            };
            if command.ran_out_of_memory() {
                out.push(&ToHost::OutOfMemory { id });
            }
            out.push(&ToHost::Done { id, outcome });
            false
        });
    }

    /// When to look for readers of standard input.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let looks = self.open.values().filter_map(|open| match open {
            Open::Command(command) => command.next_look(),
            Open::Upload(_) | Open::Download(_) => None,
        });
        looks.min()
    }

    /// Tells the host of readers of standard input that wait, if it wants to know.
    pub(crate) fn look_for_readers(&mut self, now: Instant, out: &mut Outgoing) {
        for open in self.open.values_mut() {
            if let Open::Command(command) = open
                && let Some(stdin) = command.stdin()
            {
                stdin.look(now, out);
            }
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.open.values().filter_map(|open| match open {
            Open::Command(command) => command.deadline(),
            Open::Upload(_) | Open::Download(_) => None,
        });
        deadlines.min()
    }

    /// Kills the commands whose time is over, and gives up on output that nobody writes.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Outgoing) {
        for open in self.open.values_mut() {
            if let Open::Command(command) = open {
                command.expire(now, out);
            }
        }
    }
}
