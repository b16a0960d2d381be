//! Bytes of a guest on their way to a reader.

use tokio::io::ReadBuf;

/// A chunk that a guest sent, of which a part is read.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// Those that were read.
    used: usize,
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, used: 0 }
    }
}

impl Chunk {
    /// Returns how many bytes were not read yet.
    pub(super) fn unread(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Moves as many of them to a reader as it takes.
    pub(super) fn read_into(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.unread().min(buffer.remaining());
        buffer.put_slice(&self.bytes[self.used..][..count]);
        self.used += count;
    }
}
