//! Hashes what is written through it.

use std::io::{self, Write};

use ironclaw_store::Sha256Digest;
use sha2::{Digest as _, Sha256};

/// Passes on what is written, and hashes it.
pub(super) struct Hashing<W> {
    out: W,
    hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(out: W) -> Self {
        let hasher = Sha256::new();
        Self { out, hasher }
    }

    pub(super) fn digest(self) -> Sha256Digest {
        self.finish().0
    }

    pub(super) fn finish(self) -> (Sha256Digest, W) {
        let digest: [u8; 32] = self.hasher.finalize().into();
        (digest.into(), self.out)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
