//! Many small things in the content of a request: each is a `u32` little-endian length and that
//! many bytes of postcard.

use alloc::vec::Vec;
use core::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{FrameError, decode};
use crate::limits::MAX_RECORD;

const PREFIX: usize = 4;

/// Appends `record` to `out`. Leaves `out` unchanged on an error.
///
/// # Errors
/// [`FrameError::TooLong`] if it is longer than [`MAX_RECORD`].
pub fn append<T: Serialize>(record: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    // Can fail only for lack of memory: postcard can encode all records.
    let bytes = postcard::to_allocvec(record).map_err(|_| FrameError::Malformed)?;
    match u32::try_from(bytes.len()) {
        Ok(length) if bytes.len() <= MAX_RECORD => {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&bytes);
            Ok(())
        }
        _ => Err(FrameError::TooLong {
            length: bytes.len(),
            limit: MAX_RECORD,
        }),
    }
}

/// An incremental reader of records.
#[derive(Default)]
pub struct Records {
    buffer: Vec<u8>,
    consumed: usize,
}

/// Without the bytes, which may be secret, and are many.
impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("buffered", &(self.buffer.len() - self.consumed))
            .finish_non_exhaustive()
    }
}

impl Records {
    /// Adds bytes of the content.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next record, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] and [`FrameError::Malformed`].
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.buffer[self.consumed..];
        let Some(prefix) = rest.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_RECORD {
            let limit = MAX_RECORD;
            return Err(FrameError::TooLong { length, limit });
        }
        let Some(record) = rest.get(PREFIX..PREFIX + length) else {
            return Ok(None);
        };
        let record = decode(record)?;
        self.consumed += PREFIX + length;
        Ok(Some(record))
    }

    /// Returns whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.consumed == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn records_are_read_however_their_bytes_come() {
        let records = ["a", "", "ccc"];
        let mut bytes = Vec::new();
        for record in records {
            append(&record, &mut bytes).unwrap();
        }
        for size in 1..=bytes.len() {
            let (mut reader, mut seen) = (Records::default(), Vec::new());
            for part in bytes.chunks(size) {
                reader.push(part);
                while let Some(record) = reader.read::<alloc::string::String>().unwrap() {
                    seen.push(record);
                }
            }
            assert_eq!(seen, records);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_record_beyond_the_limit_is_neither_written_nor_waited_for() {
        let mut out = Vec::new();
        assert!(append(&vec![0_u8; MAX_RECORD + 1], &mut out).is_err());
        assert!(out.is_empty());
        let mut reader = Records::default();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(reader.read::<u8>().is_err());
        let mut reader = Records::default();
        reader.push(&[2, 0, 0, 0, 1, 1]);
        assert_eq!(reader.read::<bool>(), Err(FrameError::Malformed));
    }
}
