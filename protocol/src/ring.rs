//! The last bytes of a stream, with offsets from its start.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_CHUNK;
use crate::message::Kept;

/// Capacity that an empty ring keeps; the rest of a burst's memory is freed.
const KEPT_CAPACITY: usize = MAX_CHUNK;

/// An output of a command: the bytes that were written and the host has not taken.
///
/// ```text
///   0 ........ start ──────── sent ──────── end
///     taken, or      kept for         not under
///     dropped        who comes again  way yet
/// ```
#[derive(Default, Clone, Serialize, Deserialize)]
pub(crate) struct Ring {
    start: u64,
    sent: u64,
    bytes: VecDeque<u8>,
}

/// Without the bytes, which may be secret, and are many.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("kept", &self.kept())
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
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

    /// Drops the oldest bytes beyond `limit`.
    pub(crate) fn keep(&mut self, limit: usize) {
        let beyond = self.bytes.len().saturating_sub(limit);
        self.bytes.drain(..beyond);
        self.start += beyond as u64;
        self.sent = self.sent.max(self.start);
    }

    /// Drops everything; offsets continue.
    pub(crate) fn clear(&mut self) {
        self.keep(0);
        self.bytes.shrink_to_fit();
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.kept().to
    }

    /// Returns the next bytes to send, at most `longest`.
    pub(crate) fn send(&mut self, longest: usize) -> Vec<u8> {
        // Both are within the bytes kept.
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

    /// Restarts sending at `offset`, or at the oldest byte kept; returns the offset.
    pub(crate) fn rewind(&mut self, offset: u64) -> u64 {
        let Kept { from, to } = self.kept();
        self.sent = offset.clamp(from, to);
        self.sent
    }

    /// Records that the host took everything up to `offset`; returns `false` if that was not sent.
    #[must_use]
    pub(crate) fn taken(&mut self, offset: u64) -> bool {
        if offset > self.sent {
            return false;
        }
        // It may have been dropped, or reported before.
        let count = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.bytes.drain(..count.min(self.bytes.len()));
        self.start = self.start.max(offset);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT_CAPACITY);
        }
        true
    }
}
