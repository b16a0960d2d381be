//! The last bytes of a stream that is counted from its start.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::message::Kept;

/// Room that an empty ring keeps; what a burst took beyond it goes back to the system.
const SPARE: usize = 4 * 1024;

/// One output of a command: what was written and the host has not taken.
///
/// ```text
///   0 ........ start ──────── sent ──────── end
///     taken, or      kept for         not under
///     dropped        who comes again  way yet
/// ```
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Ring {
    start: u64,
    sent: u64,
    bytes: VecDeque<u8>,
}

impl Ring {
    pub(crate) fn kept(&self) -> Kept {
        Kept {
            from: self.start,
            to: self.start + self.bytes.len() as u64,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Drops the oldest beyond `limit` bytes.
    pub(crate) fn keep(&mut self, limit: usize) {
        let beyond = self.bytes.len().saturating_sub(limit);
        self.bytes.drain(..beyond);
        self.start += beyond as u64;
        self.sent = self.sent.max(self.start);
    }

    /// Drops all; what is written from now on counts on.
    pub(crate) fn clear(&mut self) {
        self.keep(0);
        self.bytes.shrink_to_fit();
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.kept().to
    }

    /// The next bytes to be sent, at most `longest`.
    pub(crate) fn send(&mut self, longest: usize) -> Vec<u8> {
        // Both lie within the bytes that are here.
        let skip = usize::try_from(self.sent - self.start).unwrap_or(usize::MAX);
        let count = self.bytes.len().saturating_sub(skip).min(longest);
        let (front, back) = self.bytes.as_slices();
        let mut chunk = Vec::with_capacity(count);
        let in_front = front.get(skip..).unwrap_or_default();
        chunk.extend_from_slice(&in_front[..count.min(in_front.len())]);
        let skip = skip.saturating_sub(front.len());
        let left = count - chunk.len();
        chunk.extend_from_slice(&back[skip..][..left]);
        self.sent += count as u64;
        chunk
    }

    /// Sends again from `offset` on, or from the oldest that is here; where that is.
    pub(crate) fn rewind(&mut self, offset: u64) -> u64 {
        let Kept { from, to } = self.kept();
        self.sent = offset.clamp(from, to);
        self.sent
    }

    /// The host took all up to `offset`; `false` if that was not sent.
    #[must_use]
    pub(crate) fn taken(&mut self, offset: u64) -> bool {
        if offset > self.sent {
            return false;
        }
        // It may have been dropped, or said before.
        let count = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.bytes.drain(..count.min(self.bytes.len()));
        self.start = self.start.max(offset);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(SPARE);
        }
        true
    }
}
