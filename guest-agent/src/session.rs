//! The requests of one session: which messages are valid when, and who may send next.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use ironclaw_protocol::file::{FileOperation, FileRequest};
use ironclaw_protocol::limits::{MAX_CONNECTIONS, MAX_REQUESTS, MAX_WATCHES};
use ironclaw_protocol::message::{FailureKind, Outcome, Request, RequestId, ToGuest, ToHost};
use ironclaw_protocol::process_table::{Listener, SessionKey, Turn};
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::event::PollFlags;
use rustix::process::Signal;

use crate::commands::Commands;
use crate::download::Download;
use crate::failure::failed;
use crate::files::{self, Answer};
use crate::program::Surroundings;
use crate::system::System;
use crate::transfer::Transfer;
use crate::tunnel::Tunnel;
use crate::upload::Upload;

/// The agent's parts that a session needs to serve a message.
pub(crate) struct Context<'a> {
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) system: &'a mut dyn System,
    pub(crate) commands: &'a mut Commands,
    /// Set when the host asked to power off.
    pub(crate) shutdown: &'a mut bool,
    /// The key of the next session.
    pub(crate) next_session: &'a mut u64,
}

/// The open requests. Dropping them removes unfinished files; commands belong to the guest.
#[derive(Debug)]
pub(crate) struct Session {
    key: SessionKey,
    transfers: BTreeMap<RequestId, Box<dyn Transfer>>,
    /// Of commands.
    turn: Turn,
    /// The transfer that went on last; the next turn begins behind it.
    last: Option<RequestId>,
}

impl Session {
    pub(crate) fn new(key: SessionKey) -> Self {
        Self {
            key,
            transfers: BTreeMap::new(),
            turn: Turn::default(),
            last: None,
        }
    }

    /// The session's key for commands.
    pub(crate) fn key(&self) -> SessionKey {
        self.key
    }

    fn listener(&self, request: RequestId) -> Listener {
        Listener {
            session: self.key,
            request,
        }
    }

    /// Serves a validated message.
    ///
    /// Ignores messages about requests that are not open: they were under way when the request
    /// ended, which the host could not know.
    pub(crate) fn receive(
        &mut self,
        message: ToGuest,
        context: &mut Context<'_>,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        let commands = &mut *context.commands;
        match message {
            ToGuest::Hello { .. } => return Err(Violation::SecondHello),
            ToGuest::Request { id, request } => {
                self.catch_up(out);
                return self.start(id, request, context, out);
            }
            ToGuest::Data { id, bytes } => return self.content(id, bytes, commands, out),
            ToGuest::Eof { id } => return self.end_of_content(id, commands, out),
            ToGuest::Taken { id, stream, offset } => match self.transfers.get_mut(&id) {
                Some(transfer) => {
                    if !transfer.taken(offset) {
                        return Err(Violation::TakenTooMuch(id));
                    }
                }
                None => return commands.taken(self.listener(id), stream, offset),
            },
            ToGuest::Signal { id, signal } => {
                // Always valid: the number was validated.
                if let Some(signal) = Signal::from_named_raw(signal) {
                    commands.signal(self.listener(id), signal);
                }
            }
            ToGuest::Cancel { id } if self.transfers.contains_key(&id) => {
                let outcome = failed(FailureKind::Cancelled, "the host cancelled the transfer");
                self.finish(id, outcome, out);
            }
            ToGuest::Cancel { id } => commands.cancel(self.listener(id)),
            ToGuest::AwaitReader { id } => commands.await_reader(self.listener(id)),
            ToGuest::Detach { id } => commands.detach(self.listener(id)),
            ToGuest::Acknowledge { exec } => commands.acknowledge(exec),
            ToGuest::Resize { id, size } => commands.resize(self.listener(id), size),
        }
        Ok(())
    }

    fn start(
        &mut self,
        id: RequestId,
        request: Request,
        context: &mut Context<'_>,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        let listener = self.listener(id);
        let commands = &mut *context.commands;
        if self.transfers.contains_key(&id) || commands.is_open(listener) {
            return Err(Violation::IdInUse(id));
        }
        if self.transfers.len() + commands.requests(self.key) >= MAX_REQUESTS {
            return Err(Violation::TooManyRequests);
        }
        let outcome = match request {
            Request::Ping => Outcome::Pong,
            Request::SetIdentity(new) => {
                commands.keep_all();
                context.system.set_identity(&new)
            }
            Request::Exec(exec) => {
                let (surroundings, system) = (context.surroundings, &mut *context.system);
                match commands.start(&exec, listener, surroundings, system) {
                    Ok(()) => return Ok(()),
                    Err(outcome) => outcome,
                }
            }
            Request::Attach(attach) => match commands.attach(attach, listener) {
                Ok(attached) => {
                    out.push(&attached);
                    return Ok(());
                }
                Err(outcome) => outcome,
            },
            Request::PutFile(put) => match Upload::start(id, &put) {
                Ok(upload) => return self.begin(id, Box::new(upload)),
                Err(outcome) => outcome,
            },
            Request::GetFile(get) => match Download::start(id, &get) {
                Ok(download) => return self.begin(id, Box::new(download)),
                Err(outcome) => outcome,
            },
            Request::File(request) => match self.file(id, &request, context.surroundings) {
                Answer::Later(transfer) => return self.begin(id, transfer),
                Answer::Now(outcome) => outcome,
            },
            Request::List => Outcome::Commands(commands.list()),
            Request::Signal { exec, signal } => match Signal::from_named_raw(signal) {
                Some(signal) => commands.signal_any(exec, signal),
                None => failed(FailureKind::Invalid, "there is no such signal"),
            },
            Request::Kill { exec } => commands.kill(exec),
            Request::Resize { exec, size } => commands.resize_any(exec, size),
            Request::Connect { port } => match self.connect(id, port) {
                Ok(tunnel) => return self.begin(id, Box::new(tunnel)),
                Err(outcome) => outcome,
            },
            Request::Shutdown => {
                *context.shutdown = true;
                Outcome::ShuttingDown
            }
        };
        out.push(&ToHost::Done { id, outcome });
        Ok(())
    }

    fn connect(&self, id: RequestId, port: u16) -> Result<Tunnel, Outcome> {
        let connections = self.transfers.values().filter(|it| it.is_connection());
        if connections.count() >= MAX_CONNECTIONS {
            return Err(failed(
                FailureKind::TooMany,
                format_args!(
                    "connect to port {port}: there are {MAX_CONNECTIONS} connections already"
                ),
            ));
        }
        Tunnel::start(id, port)
    }

    fn file(&self, id: RequestId, request: &FileRequest, surroundings: &Surroundings) -> Answer {
        let watches = self.transfers.values().filter(|it| it.is_watch());
        if let FileOperation::Watch { path, .. } = &request.operation
            && watches.count() >= MAX_WATCHES
        {
            return Answer::Now(failed(
                FailureKind::TooMany,
                format_args!("watch {path}: there are {MAX_WATCHES} watches already"),
            ));
        }
        files::serve(id, request, surroundings.overlay.as_ref())
    }

    /// Tells of what was watched until now, so that it comes before the answer to a request.
    fn catch_up(&mut self, out: &mut Outgoing) {
        let all = self.transfers.iter();
        let watches = all.filter_map(|(&id, transfer)| transfer.is_watch().then_some(id));
        for id in watches.collect::<Vec<_>>() {
            let transfer = self.transfers.get_mut(&id).filter(|_| out.has_room());
            let Some(transfer) = transfer else {
                return;
            };
            transfer.serve(PollFlags::IN);
            if let Some(outcome) = transfer.step(&mut [], out) {
                self.finish(id, outcome, out);
            }
        }
    }

    fn begin(&mut self, id: RequestId, transfer: Box<dyn Transfer>) -> Result<(), Violation> {
        self.transfers.insert(id, transfer);
        Ok(())
    }

    fn content(
        &mut self,
        id: RequestId,
        bytes: Vec<u8>,
        commands: &mut Commands,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return commands.content(self.listener(id), bytes);
        };
        if let Some(outcome) = transfer.content(id, &bytes, out)? {
            self.finish(id, outcome, out);
        }
        Ok(())
    }

    fn end_of_content(
        &mut self,
        id: RequestId,
        commands: &mut Commands,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return commands.end_of_content(self.listener(id));
        };
        if let Some(outcome) = transfer.end_of_content(id)? {
            self.finish(id, outcome, out);
        }
        Ok(())
    }

    fn finish(&mut self, id: RequestId, outcome: Outcome, out: &mut Outgoing) {
        // Dropped first: when the host has the answer, nothing is left of the request.
        drop(self.transfers.remove(&id));
        out.push(&ToHost::Done { id, outcome });
    }

    /// Returns whether a transfer can go on without waiting for anything but room.
    pub(crate) fn has_content(&self) -> bool {
        self.transfers.values().any(|transfer| transfer.is_ready())
    }

    /// Returns the descriptors of transfers to wait for.
    pub(crate) fn waits<'a>(&'a self, add: &mut dyn FnMut(BorrowedFd<'a>, PollFlags, RequestId)) {
        for (&id, transfer) in &self.transfers {
            if let Some((fd, flags)) = transfer.waits() {
                add(fd, flags, id);
            }
        }
    }

    /// Tells a transfer of events of its descriptor.
    pub(crate) fn serve(&mut self, id: RequestId, events: PollFlags) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.serve(events);
        }
    }

    /// Queues messages of commands and files, a chunk each in turn, while there is room.
    pub(crate) fn speak(&mut self, commands: &mut Commands, buffer: &mut [u8], out: &mut Outgoing) {
        while out.has_room() {
            let said = commands.next(self.key, &mut self.turn);
            if let Some(message) = &said {
                out.push(message);
            }
            let queued = out.unsent().len();
            let goes_on = out.has_room() && self.step(buffer, out);
            // One that works and says nothing lets others be served in between.
            let says = goes_on && out.unsent().len() > queued;
            if said.is_none() && !says {
                return;
            }
        }
    }

    /// Lets the next transfer go on; returns `false` if none can.
    fn step(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> bool {
        let all = self.transfers.iter();
        let mut ready = all.filter_map(|(&id, transfer)| transfer.is_ready().then_some(id));
        let next = ready.clone().find(|id| Some(*id) > self.last);
        let Some(id) = next.or_else(|| ready.next()) else {
            return false;
        };
        self.last = Some(id);
        let transfer = self.transfers.get_mut(&id);
        if let Some(outcome) = transfer.and_then(|transfer| transfer.step(buffer, out)) {
            self.finish(id, outcome, out);
        }
        true
    }
}
