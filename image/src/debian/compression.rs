//! Decompresses content recognized by its magic number, with a limit on the result.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

/// The reason why compressed content could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// The content is damaged or truncated.
    #[error("damaged or truncated {format} data: {reason}")]
    Damaged {
        /// The name of the compression.
        format: &'static str,
        /// The decoder's error.
        reason: String,
    },
    /// The content is larger than anything that belongs there.
    #[error("{format} data is larger than {limit} bytes when decompressed")]
    TooLarge {
        /// The name of the compression.
        format: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
}

/// A compression used for kernels and their modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Zstd,
    /// The format of `lz4 -l` and of the kernel's build.
    Lz4Legacy,
}

/// The largest block of an LZ4 legacy stream before compression (`LEGACY_BLOCKSIZE` in the `lz4`
/// program).
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// The window of `zstd -22 --ultra`, which the kernel's build uses.
const ZSTD_WINDOW: u64 = 128 << 20;

/// Memory limit of liblzma; the kernel's build uses a dictionary of 128 MiB at most.
const XZ_MEMORY: u64 = 256 << 20;

impl Compression {
    const ALL: [Self; 4] = [Self::Gzip, Self::Xz, Self::Zstd, Self::Lz4Legacy];

    /// Recognizes the compression of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|compression| bytes.starts_with(compression.magic()))
    }

    pub(super) const fn magic(self) -> &'static [u8] {
        match self {
            Self::Gzip => b"\x1f\x8b\x08",
            Self::Xz => b"\xfd7zXZ\0",
            Self::Zstd => b"\x28\xb5\x2f\xfd",
            Self::Lz4Legacy => b"\x02\x21\x4c\x18",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4Legacy => "LZ4",
        }
    }

    /// Decompresses `bytes`; fails if the content is longer than `limit`.
    pub(super) fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        let output = match self {
            Self::Gzip => self.read(MultiGzDecoder::new(bytes), limit),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
                    .map_err(|error| self.damaged(error))?;
                self.read(XzDecoder::new_stream(bytes, stream), limit)
            }
            Self::Zstd => {
                let decoder = StreamingDecoder::new_with_max_window_size(bytes, ZSTD_WINDOW)
                    .map_err(|error| self.damaged(error))?;
                self.read(decoder, limit)
            }
            Self::Lz4Legacy => self.lz4_legacy(bytes, limit),
        }?;
        if output.len() > limit {
            return Err(DecompressError::TooLarge {
                format: self.name(),
                limit,
            });
        }
        Ok(output)
    }

    fn damaged(self, reason: impl ToString) -> DecompressError {
        DecompressError::Damaged {
            format: self.name(),
            reason: reason.to_string(),
        }
    }

    fn read(self, decoder: impl Read, limit: usize) -> Result<Vec<u8>, DecompressError> {
        let mut output = Vec::new();
        let copied = io::copy(&mut decoder.take(limit as u64 + 1), &mut output);
        copied.map_err(|error| self.damaged(error))?;
        Ok(output)
    }

    /// Decodes a magic number, then blocks: a `u32` length and that many bytes of an LZ4 block.
    fn lz4_legacy(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        // The magic number may be cut off: the caller may have truncated the stream after
        // recognizing it.
        let Some(mut rest) = bytes.strip_prefix(self.magic()) else {
            return Err(self.damaged("the magic number is cut off"));
        };
        let mut output = Vec::new();
        let mut block = vec![0; LZ4_LEGACY_BLOCK];
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some((compressed, next)) = after.split_at_checked(length) else {
                return Err(self.damaged(format_args!(
                    "a block of {length} bytes is announced, {} are left",
                    after.len()
                )));
            };
            let size = lz4_flex::block::decompress_into(compressed, &mut block)
                .map_err(|error| self.damaged(error))?;
            output.extend_from_slice(&block[..size]);
            if output.len() > limit {
                return Ok(output);
            }
            rest = next;
        }
        if rest.is_empty() {
            Ok(output)
        } else {
            Err(self.damaged("the last block is cut off"))
        }
    }
}

#[cfg(test)]
mod tests;
