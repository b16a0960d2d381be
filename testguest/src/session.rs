//! The guest's end of one connection, without the connection: bytes go in, bytes come out.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;

use ironclaw_protocol::message::{
    Existing, Failure, FailureKind, Outcome, PutFile, Request, RequestId, ToGuest, ToHost,
    bounded_text,
};
use ironclaw_protocol::process_table::{Listener, SessionKey, Turn};
use ironclaw_protocol::session::{self, Heard, Violation};

use crate::command;
use crate::files::Files;
use crate::guest::Guest;
use crate::transfer::{Transfer, failed};

/// Limit of a session's open requests. Each may hold a window of content, and memory is small.
pub const MAX_OPEN: usize = 16;

/// The name and release of the guest.
const AGENT: &str = concat!("ironclaw-testguest ", env!("CARGO_PKG_VERSION"));

/// One end of a connection.
#[derive(Debug)]
pub struct Session {
    end: session::Session,
    /// The session's key for commands, while the host is there.
    key: Option<SessionKey>,
    transfers: BTreeMap<RequestId, Transfer>,
    turn: Turn,
    over: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Creates a session on a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            end: session::Session::new(AGENT),
            key: None,
            transfers: BTreeMap::new(),
            turn: Turn::default(),
            over: false,
        }
    }

    /// Adds bytes from the host, for [`pump`](Self::pump).
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.over {
            self.end.receive(bytes);
        }
    }

    /// Returns bytes for the host.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.end.out.unsent()
    }

    /// Removes the first `length` bytes of [`output`](Self::output), which were sent.
    pub fn sent(&mut self, length: usize) {
        self.end.out.sent(length);
    }

    /// Returns whether so much output waits that no more input is read.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.end.out.is_congested()
    }

    /// Returns whether to close the connection once the output is sent.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Ends the session with its connection; commands continue.
    pub fn close(&mut self, guest: &mut Guest) {
        self.transfers.clear();
        if let Some(key) = self.key.take() {
            guest.commands.session_lost(key);
        }
    }

    /// Handles input, and gives each command and file one turn. Returns whether anything was done,
    /// and there may be more to do.
    pub fn pump(&mut self, guest: &mut Guest) -> bool {
        let read = self.read(guest);
        let worked = guest.work();
        let said = self.speak(guest);
        read || worked || said
    }

    fn read(&mut self, guest: &mut Guest) -> bool {
        let mut read = false;
        while !self.over && !self.is_congested() {
            let heard = match self.end.hear() {
                Ok(None) => break,
                Ok(Some(Heard::Opened)) => {
                    self.close(guest);
                    self.key = Some(guest.new_session());
                    Ok(())
                }
                Ok(Some(Heard::Message(message))) => self.handle(message, guest),
                Err(violation) => Err(violation),
            };
            read = true;
            if let Err(violation) = heard {
                self.close(guest);
                self.end.fault(&violation);
                self.over = true;
            }
        }
        read
    }

    fn speak(&mut self, guest: &mut Guest) -> bool {
        let Some(key) = self.key.filter(|_| self.end.is_open()) else {
            return false;
        };
        let mut said = false;
        while self.end.out.has_room()
            && let Some(message) = guest.commands.next(key, &mut self.turn)
        {
            self.end.out.push(&message);
            said = true;
        }
        let out = &mut self.end.out;
        self.transfers.retain(|&id, transfer| {
            let next = Some(transfer).filter(|_| out.has_room());
            let Some(message) = next.and_then(|transfer| transfer.next(id)) else {
                return true;
            };
            said = true;
            out.push(&message);
            !matches!(message, ToHost::Done { .. })
        });
        said
    }

    fn handle(&mut self, message: ToGuest, guest: &mut Guest) -> Result<(), Violation> {
        let Some(session) = self.key else {
            return Err(Violation::NoHello);
        };
        let commands = &mut guest.commands;
        let by = |request| Listener { session, request };
        // A message about a request may cross its end on the wire: no violation.
        match message {
            ToGuest::Hello { .. } => return Err(Violation::SecondHello),
            ToGuest::Request { id, request } => return self.request(by(id), request, guest),
            ToGuest::Data { id, bytes } => match self.transfers.get_mut(&id) {
                None => commands.content(by(id), &bytes)?,
                Some(transfer) => {
                    let out = &mut self.end.out;
                    if let Some(outcome) = transfer.content(id, &bytes, &guest.files, out)? {
                        self.transfers.remove(&id);
                        self.done(id, outcome);
                    }
                }
            },
            ToGuest::Eof { id } => match self.transfers.remove(&id) {
                None => commands.end_of_content(by(id))?,
                Some(transfer) => {
                    let outcome = transfer.end_of_content(id, &mut guest.files)?;
                    self.done(id, outcome);
                }
            },
            ToGuest::Taken { id, stream, offset } => match self.transfers.get_mut(&id) {
                None => commands.taken(by(id), stream, offset)?,
                Some(transfer) => transfer.taken(id, offset)?,
            },
            ToGuest::Cancel { id } if self.transfers.remove(&id).is_some() => {
                let failure = Failure {
                    kind: FailureKind::Cancelled,
                    message: "the host cancelled the request".into(),
                };
                self.done(id, Outcome::Failed(failure));
            }
            ToGuest::Cancel { id } => commands.cancel(by(id)),
            ToGuest::AwaitReader { id } => commands.await_reader(by(id)),
            ToGuest::Signal { id, signal } => commands.signal(by(id), signal),
            ToGuest::Detach { id } => commands.detach(by(id)),
            ToGuest::Acknowledge { exec } => commands.acknowledge(exec),
            // There are no terminals.
            ToGuest::Resize { .. } => {}
        }
        Ok(())
    }

    fn request(
        &mut self,
        by: Listener,
        request: Request,
        guest: &mut Guest,
    ) -> Result<(), Violation> {
        let id = by.request;
        let commands = &mut guest.commands;
        if self.transfers.contains_key(&id) || commands.is_open(by) {
            return Err(Violation::IdInUse(id));
        }
        let open = self.transfers.len() + commands.requests(by.session);
        let outcome = match request {
            Request::Ping => Outcome::Pong,
            Request::SetIdentity(new) => {
                guest.set_identity(new);
                Outcome::IdentitySet
            }
            Request::Shutdown => {
                guest.power_off_at = Some(guest.machine.uptime());
                Outcome::ShuttingDown
            }
            Request::List => commands.list(),
            Request::Signal { exec, signal } => commands.signal_any(exec, signal),
            Request::Kill { exec } => commands.signal_any(exec, 9),
            _ if open >= MAX_OPEN => {
                let message = format!("the guest takes no more than {MAX_OPEN} requests at a time");
                Outcome::Failed(Failure {
                    kind: FailureKind::TooMany,
                    message,
                })
            }
            Request::Attach(attach) => match commands.attach(attach, by) {
                Ok(attached) => {
                    self.end.out.push(&attached);
                    return Ok(());
                }
                Err(outcome) => outcome,
            },
            Request::Exec(exec) => {
                let started = commands.check(&exec);
                match started.and_then(|()| command::start(&exec, guest)) {
                    Ok(work) => {
                        let now = guest.machine.uptime();
                        guest.commands.start(&exec, work, by, now);
                        return Ok(());
                    }
                    Err(mut failure) => {
                        failure.message = bounded_text(failure.message);
                        Outcome::Failed(failure)
                    }
                }
            }
            Request::Resize { .. } => unsupported("this guest has no terminals"),
            Request::Connect { .. } => unsupported("this guest has no TCP"),
            Request::File(_) => unsupported("this guest has a table of files, and no directories"),
            Request::PutFile(put) if !is_whole(&put) => {
                unsupported("this guest writes whole files of its own")
            }
            Request::GetFile(get) if get.from > 0 || get.length.is_some() || get.user.is_some() => {
                unsupported("this guest reads whole files of its own")
            }
            Request::PutFile(put) => match Files::check_path(&put.path.to_string()) {
                Ok(()) => {
                    let transfer = Transfer::receive(put.path.to_string(), put.mode);
                    self.transfers.insert(id, transfer);
                    return Ok(());
                }
                Err(kind) => failed(kind, &put.path.to_string()),
            },
            Request::GetFile(get) => match guest.files.get(&get.path.to_string()) {
                Ok(file) => {
                    self.transfers.insert(id, Transfer::send(file));
                    return Ok(());
                }
                Err(kind) => failed(kind, &get.path.to_string()),
            },
        };
        self.done(id, outcome);
        Ok(())
    }

    fn done(&mut self, id: RequestId, outcome: Outcome) {
        self.end.out.push(&ToHost::Done { id, outcome });
    }
}

fn is_whole(put: &PutFile) -> bool {
    let whole = matches!(put.existing, Existing::Replaced | Existing::Overwritten);
    whole && put.user.is_none() && !put.parents
}

fn unsupported(reason: &str) -> Outcome {
    Outcome::Failed(Failure {
        kind: FailureKind::Unsupported,
        message: reason.into(),
    })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
