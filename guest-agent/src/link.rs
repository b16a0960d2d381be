//! One line to the host, and the session on it.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, decode};
use ironclaw_protocol::message::{ToGuest, ToHost, bounded_text};
use rustix::event::PollFlags;
use rustix::net::{Shutdown, shutdown};

use crate::fate::Fate;
use crate::outgoing::Outgoing;
use crate::session::{Context, Session};
use crate::transport::Transport;
use crate::violation::Violation;

/// ```text
///            MAGIC              Hello
/// Unsynced ─────────▶ Opened ─────────▶ Running
///    ▲  ▲               │                │  │
///    │  └───violation───┴────────────────┘  │ MAGIC: Opened again
///    └──────────host gone───────────────────┘
/// ```
#[derive(Debug)]
enum Phase {
    Unsynced,
    Opened,
    Running(Session),
}

/// A line and what belongs to it.
#[derive(Debug)]
pub(crate) struct Link {
    transport: Transport,
    decoder: Decoder,
    out: Outgoing,
    phase: Phase,
}

impl Link {
    pub(crate) fn new(transport: Transport) -> Self {
        let (decoder, out) = (Decoder::of_requests(), Outgoing::default());
        Self {
            transport,
            decoder,
            out,
            phase: Phase::Unsynced,
        }
    }

    /// Whether it is the one that exists as long as the guest.
    pub(crate) fn is_serial(&self) -> bool {
        matches!(self.transport, Transport::Serial(_))
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// What to wait for on the line itself.
    pub(crate) fn waits(&self) -> (BorrowedFd<'_>, PollFlags) {
        if let Some(edges) = self.transport.absent_host() {
            return (edges, PollFlags::IN);
        }
        let mut flags = PollFlags::empty();
        if !self.out.is_congested() {
            flags |= PollFlags::IN;
        }
        if !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        (self.transport.as_fd(), flags)
    }

    /// The session, while there is one, and where it puts its answers.
    pub(crate) fn session(&self) -> Option<(&Session, &Outgoing)> {
        match &self.phase {
            Phase::Running(session) => Some((session, &self.out)),
            Phase::Unsynced | Phase::Opened => None,
        }
    }

    /// Same as [`Link::session`], to change them.
    pub(crate) fn session_mut(&mut self) -> Option<(&mut Session, &mut Outgoing)> {
        match &mut self.phase {
            Phase::Running(session) => Some((session, &mut self.out)),
            Phase::Unsynced | Phase::Opened => None,
        }
    }

    /// Writes what the line takes.
    pub(crate) fn flush(&mut self) -> Fate {
        if self.out.is_empty() || self.transport.absent_host().is_some() {
            return Fate::Kept;
        }
        match self.out.write_to(self.transport.file()) {
            Ok(()) => Fate::Kept,
            Err(_) => self.host_gone(),
        }
    }

    /// For the end of the guest: writes what waits, and says whether nothing is left to wait for.
    /// A connection is waited for until the host closes it, as the sign that it has read all.
    pub(crate) fn is_delivered(&mut self, buffer: &mut [u8]) -> bool {
        if self.flush() == Fate::Over {
            return true;
        }
        if self.is_serial() || !self.is_flushed() {
            return self.is_flushed();
        }
        // Again and again, but only the first time has an effect.
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

    /// Serves what `waits` asked for.
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
        if self.out.is_congested() {
            // It is not read now, so a hang-up is not noticed by reading.
            let gone = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
            return if gone { self.host_gone() } else { Fate::Kept };
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Fate::Kept;
        }
        match self.transport.file().read(buffer) {
            Ok(0) => self.host_gone(),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                self.receive(context)
            }
            Err(error) if is_transient(&error) => Fate::Kept,
            Err(_) => self.host_gone(),
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Fate {
        loop {
            match self.next(context) {
                Ok(true) => {}
                Ok(false) => return Fate::Kept,
                Err(violation) => {
                    if self.fault(&violation) == Fate::Over {
                        return Fate::Over;
                    }
                }
            }
        }
    }

    /// Serves the next event in what was read, if there is a whole one.
    fn next(&mut self, context: &mut Context<'_>) -> Result<bool, Violation> {
        match self.decoder.next()? {
            None => return Ok(false),
            Some(Event::Opened) => self.phase = Phase::Opened,
            Some(Event::Frame(payload)) => {
                let message: ToGuest = decode(payload)?;
                message.validate()?;
                match (&mut self.phase, message) {
                    (Phase::Running(session), message) => {
                        session.receive(message, context, &mut self.out)?;
                    }
                    (_, ToGuest::Hello { version, session }) => self.greet(version, session)?,
                    _ => return Err(Violation::NoHello),
                }
            }
        }
        Ok(true)
    }

    fn greet(&mut self, version: u16, session: u64) -> Result<(), Violation> {
        self.out.open_session();
        self.out.push(&ToHost::Hello {
            version: VERSION,
            session,
            agent: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        });
        // From here on a violation needs no session start of its own.
        self.phase = Phase::Running(Session::default());
        if version == VERSION {
            Ok(())
        } else {
            Err(Violation::Version { host: version })
        }
    }

    /// Ends the session and tells the host why.
    fn fault(&mut self, violation: &Violation) -> Fate {
        match std::mem::replace(&mut self.phase, Phase::Unsynced) {
            // Noise in front of a session: nobody is there who could be told.
            Phase::Unsynced => {}
            phase => {
                if matches!(phase, Phase::Opened) {
                    self.out.open_session();
                }
                drop(phase);
                self.out.push(&ToHost::Fault {
                    reason: bounded_text(violation.to_string()),
                });
            }
        }
        self.decoder.lose_step();
        if self.is_serial() {
            return Fate::Kept;
        }
        // A host that does not take it now does not get to know.
        let _ = self.out.write_to(self.transport.file());
        Fate::Over
    }

    fn host_gone(&mut self) -> Fate {
        self.phase = Phase::Unsynced;
        self.decoder = Decoder::of_requests();
        self.out.clear();
        self.transport.host_gone()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
