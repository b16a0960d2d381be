//! What a guest has of one of its commands, and what it still has to say to its listener.

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CHUNK, UNATTENDED_TICKS, WINDOW};
use crate::message::{CommandEnd, RequestId, Stream, ToHost};
use crate::os_bytes::OsBytes;
use crate::ring::Ring;

/// The minimum grant of credit, to save frames. The host still never stalls: it has to use up the
/// whole window, which is more, before it has to wait.
const CREDIT_PORTION: u64 = WINDOW as u64 / 4;

/// The id of a session, never reused in a guest's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey(pub u64);

/// A request of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The session.
    pub session: SessionKey,
    /// The id of the request.
    pub request: RequestId,
}

/// The state of standard input.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Inflow {
    pub(super) received: u64,
    pub(super) taken: u64,
    /// The part of `taken` that was reported to the host.
    pub(super) told: u64,
    pub(super) closed: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Ear {
    Listening(Listener),
    /// The session has the end, which is lost if the session is.
    Answered(SessionKey),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) order: u64,
    pub(super) pid: u32,
    pub(super) program: OsBytes,
    pub(super) tag: OsBytes,
    pub(super) keep: bool,
    pub(super) ear: Option<Ear>,
    /// Ticks since nobody listens.
    pub(super) quiet: u32,
    pub(super) stdout: Ring,
    pub(super) stderr: Ring,
    /// The stream sent last.
    pub(super) last: Stream,
    pub(super) stdin: Option<Inflow>,
    pub(super) reader_waits: bool,
    pub(super) out_of_memory: bool,
    pub(super) end: Option<CommandEnd>,
}

impl Record {
    pub(super) fn ring(&mut self, stream: Stream) -> Option<&mut Ring> {
        match stream {
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::File => None,
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }

    /// Returns whether nobody has listened for the maximum time.
    pub(super) fn is_given_up(&self) -> bool {
        self.ear.is_none() && self.quiet >= UNATTENDED_TICKS
    }

    pub(super) fn is_heard_by(&self, session: SessionKey) -> bool {
        matches!(self.ear, Some(Ear::Listening(listener)) if listener.session == session)
    }

    pub(super) fn answered(&self) -> bool {
        matches!(self.ear, Some(Ear::Answered(_)))
    }

    /// Returns the next message for the listener.
    pub(super) fn next(&mut self) -> Option<ToHost> {
        let Some(Ear::Listening(Listener { session, request })) = self.ear else {
            return None;
        };
        let id = request;
        if let Some(stdin) = &mut self.stdin
            && stdin.taken - stdin.told >= CREDIT_PORTION
            && !stdin.closed
        {
            let bytes = u32::try_from(stdin.taken - stdin.told).unwrap_or(WINDOW);
            stdin.told = stdin.taken;
            return Some(ToHost::Credit { id, bytes });
        }
        if core::mem::take(&mut self.reader_waits) {
            return Some(ToHost::ReaderWaits { id });
        }
        let turns = match self.last {
            Stream::Stdout => [Stream::Stderr, Stream::Stdout],
            _ => [Stream::Stdout, Stream::Stderr],
        };
        for stream in turns {
            if let Some(ring) = self.ring(stream)
                && ring.has_unsent()
            {
                let bytes = ring.send(MAX_CHUNK);
                self.last = stream;
                return Some(ToHost::Data { id, stream, bytes });
            }
        }
        let end = self.end?;
        if core::mem::take(&mut self.out_of_memory) {
            return Some(ToHost::OutOfMemory { id });
        }
        self.ear = Some(Ear::Answered(session));
        Some(ToHost::Done {
            id,
            outcome: end.outcome(),
        })
    }
}
