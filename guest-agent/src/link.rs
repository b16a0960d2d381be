//! A line to the host, and the session on it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use ironclaw_protocol::message::RequestId;
use ironclaw_protocol::process_table::SessionKey;
use ironclaw_protocol::session::{self, Heard, Outgoing, Violation};
use rustix::event::PollFlags;
use rustix::net::{Shutdown, shutdown};

use crate::commands::Commands;
use crate::fate::Fate;
use crate::session::{Context, Session};
use crate::transport::Transport;

/// The name and release of the agent.
const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));

/// A line with its session.
#[derive(Debug)]
pub(crate) struct Link {
    transport: Transport,
    end: session::Session,
    /// The host's requests, while it is connected.
    session: Option<Session>,
}

impl Link {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            end: session::Session::new(AGENT),
            session: None,
        }
    }

    /// Returns whether it is the line that exists as long as the guest.
    pub(crate) fn is_serial(&self) -> bool {
        matches!(self.transport, Transport::Serial(_))
    }

    /// Returns whether nothing waits to be written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.end.out.is_empty()
    }

    /// Returns the events to wait for on the line itself.
    pub(crate) fn waits(&self) -> (BorrowedFd<'_>, PollFlags) {
        if let Some(edges) = self.transport.absent_host() {
            return (edges, PollFlags::IN);
        }
        let mut flags = PollFlags::empty();
        if !self.end.out.is_congested() {
            flags |= PollFlags::IN;
        }
        if !self.end.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        (self.transport.as_fd(), flags)
    }

    /// Returns the descriptors of its requests to wait for.
    pub(crate) fn waits_of_requests<'a>(
        &'a self,
        add: &mut dyn FnMut(BorrowedFd<'a>, PollFlags, RequestId),
    ) {
        // What they would bring has nowhere to go.
        if let Some(session) = &self.session
            && self.end.out.has_room()
        {
            session.waits(add);
        }
    }

    /// Tells a request of events of its descriptor.
    pub(crate) fn serve_request(&mut self, id: RequestId, events: PollFlags) {
        if let Some(session) = &mut self.session {
            session.serve(id, events);
        }
    }

    /// Returns whether it has something to send without waiting.
    pub(crate) fn is_ready(&self) -> bool {
        let has_content = self.session.as_ref().is_some_and(Session::has_content);
        has_content && self.end.out.has_room()
    }

    /// Queues messages of the session.
    pub(crate) fn speak(&mut self, commands: &mut Commands, buffer: &mut [u8]) {
        if let Some(session) = &mut self.session
            && self.end.is_open()
        {
            session.speak(commands, buffer, &mut self.end.out);
        }
    }

    /// Writes as much as the line takes.
    pub(crate) fn flush(&mut self, commands: &mut Commands) -> Fate {
        if self.end.out.is_empty() || self.transport.absent_host().is_some() {
            return Fate::Kept;
        }
        match write(&mut self.end.out, self.transport.file()) {
            Ok(()) => Fate::Kept,
            Err(_) => self.host_gone(commands),
        }
    }

    /// Flushes the line at the end of the guest; returns whether there is nothing left to wait for.
    /// A connection is waited for until the host closes it, as the sign that it has read
    /// everything.
    pub(crate) fn is_delivered(&mut self, commands: &mut Commands, buffer: &mut [u8]) -> bool {
        if self.flush(commands) == Fate::Over {
            return true;
        }
        if self.is_serial() || !self.is_flushed() {
            return self.is_flushed();
        }
        // Repeated, but effective only the first time.
        if shutdown(&self.transport, Shutdown::Write).is_err() {
            return true;
        }
        loop {
            match self.transport.file().read(buffer) {
                Ok(count) if count > 0 => {}
                Err(error) if is_transient(&error) => return false,
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Serves the events that `waits` asked for.
    pub(crate) fn serve(
        &mut self,
        events: PollFlags,
        buffer: &mut [u8],
        context: &mut Context<'_>,
    ) -> Fate {
        if self.transport.absent_host().is_some() {
            self.transport.look_for_host();
            return Fate::Kept;
        }
        if self.end.out.is_congested() {
            // It is not being read, so a read would not notice the hang-up.
            let gone = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
            return if gone {
                self.host_gone(context.commands)
            } else {
                Fate::Kept
            };
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Fate::Kept;
        }
        match self.transport.file().read(buffer) {
            Ok(0) => self.host_gone(context.commands),
            Ok(count) => {
                self.end.receive(&buffer[..count]);
                self.receive(context)
            }
            Err(error) if is_transient(&error) => Fate::Kept,
            Err(_) => self.host_gone(context.commands),
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Fate {
        loop {
            match self.next(context) {
                Ok(true) => {}
                Ok(false) => return Fate::Kept,
                Err(violation) => {
                    if self.fault(&violation, context.commands) == Fate::Over {
                        return Fate::Over;
                    }
                }
            }
        }
    }

    /// Handles the next complete event in the bytes read.
    fn next(&mut self, context: &mut Context<'_>) -> Result<bool, Violation> {
        match self.end.hear()? {
            None => return Ok(false),
            Some(Heard::Opened) => {
                self.end_session(context.commands);
                let key = SessionKey(*context.next_session);
                *context.next_session += 1;
                self.session = Some(Session::new(key));
            }
            Some(Heard::Message(message)) => {
                if let Some(session) = &mut self.session {
                    session.receive(message, context, &mut self.end.out)?;
                }
            }
        }
        Ok(true)
    }

    /// Resets the session; its commands stay, for another one.
    fn end_session(&mut self, commands: &mut Commands) {
        if let Some(session) = self.session.take() {
            commands.session_lost(session.key());
        }
    }

    /// Ends the session and reports the reason to the host.
    fn fault(&mut self, violation: &Violation, commands: &mut Commands) -> Fate {
        self.end_session(commands);
        self.end.fault(violation);
        if self.is_serial() {
            return Fate::Kept;
        }
        // A host that does not take it now will not learn it.
        let _ = write(&mut self.end.out, self.transport.file());
        Fate::Over
    }

    fn host_gone(&mut self, commands: &mut Commands) -> Fate {
        self.end_session(commands);
        self.end.host_gone();
        self.transport.host_gone()
    }
}

/// Writes as much as `line` takes without blocking.
fn write(out: &mut Outgoing, mut line: impl Write) -> io::Result<()> {
    while !out.is_empty() {
        match line.write(out.unsent()) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => out.sent(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
