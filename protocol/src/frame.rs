//! Cuts a byte stream into frames, and finds the start of a session.
//!
//! A frame is a `u32` little-endian length and that many bytes of payload. A session starts with
//! [`MAGIC`], which can never be read as a length, so a new session can begin at any frame
//! boundary of an old one: that is what happens when a clone is restored from a snapshot, and
//! its guest, whose serial line was never closed, meets a new host.

use alloc::vec::Vec;
use core::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::limits::{MAX_FRAME, MAX_REQUEST_FRAME, MAX_RESYNC};
use crate::message::{ToGuest, ToHost};

/// Eight bytes that start a session, in both directions.
pub const MAGIC: [u8; 8] = *b"\xF1IronClw";

const PREFIX: usize = 4;

// A magic that could be the length of a request, or of an answer, which is shorter, would make a
// new session look like a frame of the old one.
const _: () = {
    let as_length = u32::from_le_bytes([MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3]]);
    assert!(as_length as usize > MAX_REQUEST_FRAME);
};

/// The reason why a stream can't be read further.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame announced more bytes than its direction allows.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The announced length, or the length of a message to send.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// No session start came within [`MAX_RESYNC`] bytes.
    #[error("no session start within {MAX_RESYNC} bytes")]
    NoSession,
    /// A payload is no message of this protocol.
    #[error("a frame does not hold a message of this protocol version")]
    Malformed,
}

/// The messages of one direction, with their limit.
pub trait Message: Serialize {
    /// The maximum length of a payload, in bytes.
    const MAX_FRAME: usize;
}

impl Message for ToGuest {
    const MAX_FRAME: usize = MAX_REQUEST_FRAME;
}

impl Message for ToHost {
    const MAX_FRAME: usize = MAX_FRAME;
}

/// Appends `message` to `out` as one frame. Leaves `out` unchanged on an error.
///
/// # Errors
/// [`FrameError::TooLong`] if the message does not fit into a frame of its direction.
pub fn encode<T: Message>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    let sink = core::mem::take(out);
    // Can fail only for lack of memory: postcard can encode all message types.
    *out = postcard::to_extend(message, sink).map_err(|_| FrameError::Malformed)?;
    let length = out.len() - start - PREFIX;
    match u32::try_from(length) {
        Ok(prefix) if length <= T::MAX_FRAME => {
            out[start..start + PREFIX].copy_from_slice(&prefix.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            let limit = T::MAX_FRAME;
            Err(FrameError::TooLong { length, limit })
        }
    }
}

/// Decodes the message in a frame's payload, which must contain nothing else.
///
/// # Errors
/// [`FrameError::Malformed`] if it does not.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Malformed),
    }
}

/// The next event that a [`Decoder`] found in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The other end started a session; everything of an older one is void.
    Opened,
    /// The payload of a frame.
    Frame(&'a [u8]),
}

/// An incremental reader of one direction of a connection.
///
/// It starts out of step and skips everything up to a [`MAGIC`]. After an error it is out of step
/// again: a reader may continue, or close its connection.
///
/// The buffer holds at most one frame and what was pushed last.
pub struct Decoder {
    /// The maximum length of a payload.
    limit: usize,
    buffer: Vec<u8>,
    read: usize,
    in_step: bool,
    skipped: usize,
}

/// Without the bytes, which may be secret, and are many.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("buffered", &(self.buffer.len() - self.read))
            .field("in_step", &self.in_step)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Creates a decoder of a guest's messages, which waits for the start of a session.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(ToHost::MAX_FRAME)
    }

    /// Creates a decoder of a host's messages: a request may be longer than any answer.
    #[must_use]
    pub fn of_requests() -> Self {
        Self::with_limit(ToGuest::MAX_FRAME)
    }

    fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            buffer: Vec::new(),
            read: 0,
            in_step: false,
            skipped: 0,
        }
    }

    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
            // Frees the memory of a long request.
            self.buffer.shrink_to(MAX_FRAME.max(bytes.len()));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next event, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] and [`FrameError::NoSession`]; the decoder is out of step then.
    #[allow(
        clippy::should_implement_trait,
        reason = "lends from the buffer, as Iterator can't"
    )]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, FrameError> {
        if !self.in_step {
            return Ok(self.find_session()?.then_some(Event::Opened));
        }
        let rest = &self.buffer[self.read..];
        let Some(prefix) = rest.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if MAGIC.starts_with(prefix) {
            if rest.len() < MAGIC.len() {
                return Ok(None);
            }
            if rest.starts_with(&MAGIC) {
                self.read += MAGIC.len();
                return Ok(Some(Event::Opened));
            }
        }
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > self.limit {
            self.lose_step();
            let limit = self.limit;
            return Err(FrameError::TooLong { length, limit });
        }
        if rest.len() < PREFIX + length {
            return Ok(None);
        }
        let start = self.read + PREFIX;
        self.read = start + length;
        Ok(Some(Event::Frame(&self.buffer[start..start + length])))
    }

    /// Resets to out of step, for a reader that found a violation in a frame's content.
    pub fn lose_step(&mut self) {
        self.in_step = false;
        self.skipped = 0;
    }

    fn find_session(&mut self) -> Result<bool, FrameError> {
        let rest = &self.buffer[self.read..];
        let found = rest.windows(MAGIC.len()).position(|window| window == MAGIC);
        let skip = match found {
            Some(at) => at,
            // The tail may be the first part of a magic whose rest is still to come.
            None => rest.len().saturating_sub(MAGIC.len() - 1),
        };
        self.read += skip;
        self.skipped += skip;
        if self.skipped > MAX_RESYNC {
            self.skipped = 0;
            return Err(FrameError::NoSession);
        }
        if found.is_some() {
            self.read += MAGIC.len();
            self.in_step = true;
            self.skipped = 0;
        }
        Ok(found.is_some())
    }
}
