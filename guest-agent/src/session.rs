//! The requests of one session: which messages are valid when, and who may send next.

use std::collections::BTreeMap;

use ironclaw_protocol::limits::MAX_REQUESTS;
use ironclaw_protocol::message::{FailureKind, Outcome, Request, RequestId, ToGuest, ToHost};
use ironclaw_protocol::process_table::{Listener, SessionKey, Turn};
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::process::Signal;

use crate::commands::Commands;
use crate::download::Download;
use crate::failure::failed;
use crate::program::Surroundings;
use crate::system::System;
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

/// A file's transfer.
#[derive(Debug)]
enum Transfer {
    Upload(Upload),
    Download(Download),
}

/// The open requests. Dropping them removes unfinished files; commands belong to the guest.
#[derive(Debug)]
pub(crate) struct Session {
    key: SessionKey,
    transfers: BTreeMap<RequestId, Transfer>,
    /// Of commands.
    turn: Turn,
    /// The file that sent last; the next turn begins behind it.
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
            ToGuest::Request { id, request } => return self.start(id, request, context, out),
            ToGuest::Data { id, bytes } => return self.content(id, bytes, commands, out),
            ToGuest::Eof { id } => return self.end_of_content(id, commands, out),
            ToGuest::Taken { id, stream, offset } => match self.transfers.get_mut(&id) {
                Some(Transfer::Download(download)) => {
                    if !download.taken(offset) {
                        return Err(Violation::TakenTooMuch(id));
                    }
                }
                Some(Transfer::Upload(_)) => {}
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
                Ok(upload) => {
                    self.transfers.insert(id, Transfer::Upload(upload));
                    return Ok(());
                }
                Err(outcome) => outcome,
            },
            Request::GetFile(get) => match Download::start(id, &get) {
                Ok(download) => {
                    self.transfers.insert(id, Transfer::Download(download));
                    return Ok(());
                }
                Err(outcome) => outcome,
            },
            Request::List => Outcome::Commands(commands.list()),
            Request::Signal { exec, signal } => match Signal::from_named_raw(signal) {
                Some(signal) => commands.signal_any(exec, signal),
                None => failed(FailureKind::Invalid, "there is no such signal"),
            },
            Request::Kill { exec } => commands.kill(exec),
            Request::Shutdown => {
                *context.shutdown = true;
                Outcome::ShuttingDown
            }
        };
        out.push(&ToHost::Done { id, outcome });
        Ok(())
    }

    fn content(
        &mut self,
        id: RequestId,
        bytes: Vec<u8>,
        commands: &mut Commands,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        match self.transfers.get_mut(&id) {
            None => return commands.content(self.listener(id), bytes),
            Some(Transfer::Upload(upload)) => {
                if let Err(outcome) = upload.arrive(&bytes, out)? {
                    self.finish(id, outcome, out);
                }
            }
            Some(Transfer::Download(_)) => return Err(Violation::UnexpectedContent(id)),
        }
        Ok(())
    }

    fn end_of_content(
        &mut self,
        id: RequestId,
        commands: &mut Commands,
        out: &mut Outgoing,
    ) -> Result<(), Violation> {
        match self.transfers.remove(&id) {
            None => return commands.end_of_content(self.listener(id)),
            Some(Transfer::Upload(upload)) => out.push(&ToHost::Done {
                id,
                outcome: upload.finish(),
            }),
            Some(Transfer::Download(_)) => return Err(Violation::UnexpectedContent(id)),
        }
        Ok(())
    }

    fn finish(&mut self, id: RequestId, outcome: Outcome, out: &mut Outgoing) {
        // Dropped first: when the host has the answer, nothing is left of the request.
        drop(self.transfers.remove(&id));
        out.push(&ToHost::Done { id, outcome });
    }

    /// Returns whether a file can be sent without waiting for anything but room.
    pub(crate) fn has_content(&self) -> bool {
        let mut transfers = self.transfers.values();
        transfers.any(|transfer| matches!(transfer, Transfer::Download(d) if d.has_credit()))
    }

    /// Queues messages of commands and files, a chunk each in turn, while there is room.
    pub(crate) fn speak(&mut self, commands: &mut Commands, buffer: &mut [u8], out: &mut Outgoing) {
        while out.has_room() {
            let said = commands.next(self.key, &mut self.turn);
            if let Some(message) = &said {
                out.push(message);
            }
            let sends = out.has_room() && self.send_of_file(buffer, out);
            if said.is_none() && !sends {
                return;
            }
        }
    }

    /// Sends a chunk of the next file; returns `false` if there is none to send.
    fn send_of_file(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> bool {
        let sendable = |(&id, transfer): (&RequestId, &Transfer)| match transfer {
            Transfer::Download(download) if download.has_credit() => Some(id),
            _ => None,
        };
        let behind = self.transfers.iter().filter_map(sendable);
        let next = behind.clone().find(|id| Some(*id) > self.last);
        let Some(id) = next.or_else(|| self.transfers.iter().find_map(sendable)) else {
            return false;
        };
        self.last = Some(id);
        if let Some(Transfer::Download(download)) = self.transfers.get_mut(&id)
            && let Some(outcome) = download.send(buffer, out)
        {
            self.finish(id, outcome, out);
        }
        true
    }
}
