//! The queue of messages to the host.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use crate::frame::{MAGIC, encode};
use crate::limits::MAX_CHUNK;
use crate::message::ToHost;

/// Content (`Data`) is only queued below this many bytes: an answer to another request never waits
/// behind more than this and one chunk.
const MAX_QUEUED_CONTENT: usize = 2 * MAX_CHUNK;

/// From this many bytes on nothing more is read from the host, so that a host that asks and never
/// listens can't make the queue grow.
const HIGH_WATERMARK: usize = 8 * MAX_CHUNK;

/// Capacity that an empty queue keeps; the rest of a burst's memory is freed.
const KEPT_CAPACITY: usize = 4 * 1024;

/// The frames to send to the host, in order.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Number of bytes written of `bytes`.
    sent: usize,
    /// The ends of frames in `bytes`, from the first one not written completely.
    ends: VecDeque<usize>,
}

/// Without the bytes, which may be secret, and are many.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("queued", &(self.bytes.len() - self.sent))
            .field("frames", &self.ends.len())
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Starts a session. Keeps only the rest of a frame of an older session that is partly sent:
    /// the host would take the session start for a part of that frame.
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
        // Fits: a guest's chunks and texts are bounded.
        let encoded = encode(message, &mut self.bytes);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        if self.ends.back() != Some(&self.bytes.len()) {
            self.ends.push_back(self.bytes.len());
        }
    }

    /// Discards everything: nobody reads it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.ends.clear();
        self.sent = 0;
    }

    /// Returns whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unsent().is_empty()
    }

    /// Returns whether content may be queued.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unsent().len() < MAX_QUEUED_CONTENT
    }

    /// Returns whether to stop reading from the host until it has read.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.unsent().len() >= HIGH_WATERMARK
    }

    /// Returns the bytes to send.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Records that the first `count` bytes of [`unsent`](Self::unsent) were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.bytes.len().min(self.sent + count);
        if self.sent == self.bytes.len() {
            self.clear();
        }
    }

    /// Drops the frames that are sent completely.
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
        assert!(out.bytes.capacity() <= KEPT_CAPACITY);
    }
}
