//! The credit that the guest has for the content of one request's answer.

use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{RequestId, Stream, ToHost};
use ironclaw_protocol::session::Outgoing;

/// The bytes sent, and those of them that the host has taken.
#[derive(Debug)]
pub(crate) struct Outflow {
    id: RequestId,
    sent: u64,
    taken: u64,
}

impl Outflow {
    pub(crate) fn new(id: RequestId) -> Self {
        Self {
            id,
            sent: 0,
            taken: 0,
        }
    }

    /// Returns how many bytes the host takes now in one message.
    pub(crate) fn room(&self) -> usize {
        let credit = self.taken + u64::from(WINDOW) - self.sent;
        usize::try_from(credit).map_or(MAX_CHUNK, |credit| credit.min(MAX_CHUNK))
    }

    /// Returns the number of bytes sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Records that the host took everything up to `offset`; returns `false` if that was not sent.
    #[must_use]
    pub(crate) fn taken(&mut self, offset: u64) -> bool {
        self.taken = self.taken.max(offset);
        self.taken <= self.sent
    }

    /// Sends bytes, no more than there is [`room`](Self::room) for.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, out: &mut Outgoing) {
        self.sent += bytes.len() as u64;
        out.push(&ToHost::Data {
            id: self.id,
            stream: Stream::File,
            bytes,
        });
    }
}
