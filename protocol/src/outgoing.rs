//! What waits to be written to the host.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::frame::{MAGIC, encode};
use crate::limits::MAX_CHUNK;
use crate::message::ToHost;

/// Content (`Data`) is queued only below this many bytes: an answer to another request never
/// waits behind more than that and one chunk.
const BULK: usize = 2 * MAX_CHUNK;

/// From this many waiting bytes on nothing more is read from the host, so that a host that asks
/// and never listens can't make the queue grow.
const CONGESTED: usize = 8 * MAX_CHUNK;

/// Room that an empty queue keeps; what a burst took beyond it goes back to the system.
const KEPT: usize = 4 * 1024;

/// The frames that are on their way to the host, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// How much of `bytes` is written.
    sent: usize,
    /// Where the frames in `bytes` end, from the first that is not written in full.
    ends: VecDeque<usize>,
}

impl Outgoing {
    /// Starts a session towards the host. Of what an older session left, only the rest of a
    /// frame that is already half on the line stays: a host that is in the middle of that frame
    /// would take the session start for a part of it.
    pub(crate) fn open_session(&mut self) {
        self.forget_sent();
        if self.sent == 0 {
            self.clear();
        } else if let Some(&end) = self.ends.front() {
            self.bytes.truncate(end);
            self.ends.truncate(1);
        }
        self.bytes.extend_from_slice(&MAGIC);
        self.ends.push_back(self.bytes.len());
    }

    /// Queues a message.
    pub fn push(&mut self, message: &ToHost) {
        self.forget_sent();
        // A guest bounds chunks and texts, so every message of it fits into a frame.
        let encoded = encode(message, &mut self.bytes);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        if self.ends.back() != Some(&self.bytes.len()) {
            self.ends.push_back(self.bytes.len());
        }
    }

    /// Forgets everything: there is nobody to read it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.ends.clear();
        self.sent = 0;
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unsent().is_empty()
    }

    /// Whether content may be queued.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unsent().len() < BULK
    }

    /// Whether the host should be left unread until it has read.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.unsent().len() >= CONGESTED
    }

    /// The bytes for the host.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The first `count` of [`unsent`](Self::unsent) are on the line.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.bytes.len().min(self.sent + count);
        if self.sent == self.bytes.len() {
            self.clear();
        }
    }

    /// Drops the frames that are written in full.
    fn forget_sent(&mut self) {
        let mut start = 0;
        while let Some(&end) = self.ends.front().filter(|&&end| end <= self.sent) {
            start = end;
            self.ends.pop_front();
        }
        if start > 0 {
            self.bytes.drain(..start);
            self.sent -= start;
            for end in &mut self.ends {
                *end -= start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;
    use alloc::vec;

    use super::*;
    use crate::frame::{Decoder, Event, decode};
    use crate::message::{Outcome, RequestId};

    fn pong(id: u32) -> ToHost {
        ToHost::Done {
            id: RequestId(id),
            outcome: Outcome::Pong,
        }
    }

    #[test]
    fn a_new_session_keeps_only_the_rest_of_a_frame_that_is_half_written() {
        let frame = {
            let mut bytes = Vec::new();
            encode(&pong(1), &mut bytes).unwrap();
            bytes.len()
        };
        for room in 0..3 * frame {
            let mut out = Outgoing::default();
            out.open_session();
            (1..=3).for_each(|id| out.push(&pong(id)));
            let mut taken = out.unsent()[..MAGIC.len() + room].to_vec();
            out.sent(taken.len());
            out.open_session();
            out.push(&pong(9));
            taken.extend_from_slice(out.unsent());
            out.sent(usize::MAX / 2);
            assert!(out.is_empty());

            let mut decoder = Decoder::new();
            decoder.push(&taken);
            let mut seen = Vec::new();
            while let Some(event) = decoder.next().unwrap() {
                seen.push(match event {
                    Event::Opened => None,
                    Event::Frame(payload) => Some(decode::<ToHost>(payload).unwrap()),
                });
            }
            let old = u32::try_from(room.div_ceil(frame)).unwrap();
            let mut expected = vec![None];
            expected.extend((1..=old).map(|id| Some(pong(id))));
            expected.extend([None, Some(pong(9))]);
            assert_eq!(
                seen, expected,
                "{room} bytes of the old session were written"
            );
        }
    }

    #[test]
    fn a_queue_that_was_written_gives_its_memory_back() {
        let mut out = Outgoing::default();
        while !out.is_congested() {
            out.push(&ToHost::Fault {
                reason: "x".repeat(1000).to_string(),
            });
        }
        out.sent(out.unsent().len());
        assert!(out.bytes.capacity() <= KEPT);
    }
}
