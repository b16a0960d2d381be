//! Decompression of layers, with limits.

use std::io::{self, BufRead as _, BufReader, Chain, Cursor, Read, Write};

use flate2::bufread::MultiGzDecoder;
use ironclaw_store::Sha256Digest;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::blob::Hashing;

/// A layer that unpacks to more than so many times its size is refused, once it has [`RATIO_FROM`]
/// bytes. Gzip can't do much more.
const MAX_RATIO: u64 = 1000;
const RATIO_FROM: u64 = 256 << 20;
/// Largest window of zstd: that of `zstd -19` and of `--long`.
const ZSTD_WINDOW: u64 = 128 << 20;
const BUFFER: usize = 128 << 10;

/// A layer that was unpacked.
pub(super) struct Unpacked {
    /// The digest of the blob, compressed as it was.
    pub(super) blob: Sha256Digest,
    /// The size of the blob.
    pub(super) blob_bytes: u64,
    /// The digest of the archive.
    pub(super) archive: Sha256Digest,
    /// The size of the archive.
    pub(super) bytes: u64,
}

/// Unpacks a blob, of whatever compression its first bytes tell, into `out`: `limit` bytes at most.
pub(super) fn unpack(blob: impl Read, out: impl Write, limit: u64) -> io::Result<Unpacked> {
    let mut input = BufReader::with_capacity(BUFFER, Hashing::new(blob));
    let mut output = Output {
        out,
        bytes: 0,
        limit,
    };
    let archive = match input.fill_buf()? {
        [0x1f, 0x8b, ..] => {
            let mut decoder = MultiGzDecoder::new(&mut input);
            digest(&mut output, |buffer| {
                let read = decoder.read(buffer)?;
                Ok((read, decoder.get_ref().get_ref().bytes()))
            })?
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = Zstd::new(&mut input);
            digest(&mut output, |buffer| {
                let read = decoder.read(buffer)?;
                Ok((read, decoder.input_bytes()))
            })?
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..] => {
            let text = "it is compressed by xz or bzip2, and an image by gzip, zstd or not at all";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        _ => digest(&mut output, |buffer| {
            let read = input.read(buffer)?;
            Ok((read, u64::MAX))
        })?,
    };
    let bytes = output.bytes;
    let (blob, blob_bytes) = input.into_inner().finish()?;
    Ok(Unpacked {
        blob,
        blob_bytes,
        archive,
        bytes,
    })
}

/// Copies what `read` returns, and hashes it. It returns how much of the blob it took, too.
fn digest<W: Write>(
    output: &mut Output<W>,
    mut read: impl FnMut(&mut [u8]) -> io::Result<(usize, u64)>,
) -> io::Result<Sha256Digest> {
    let source = Copying {
        output,
        read: &mut read,
    };
    Sha256Digest::of_reader(source)
}

/// Whether so many bytes out of so few are no archive that somebody packed.
pub(super) fn ratio_is_absurd(unpacked: u64, taken: u64) -> bool {
    unpacked > RATIO_FROM && unpacked / MAX_RATIO > taken
}

/// Where an archive goes.
struct Output<W> {
    out: W,
    bytes: u64,
    limit: u64,
}

struct Copying<'a, W, F> {
    output: &'a mut Output<W>,
    read: &'a mut F,
}

impl<W: Write, F: FnMut(&mut [u8]) -> io::Result<(usize, u64)>> Read for Copying<'_, W, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, taken) = (self.read)(buffer)?;
        let output = &mut *self.output;
        output.bytes += read as u64;
        let bomb = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        if output.bytes > output.limit {
            return bomb(format!(
                "it has more than {} bytes, which is what `root_disk_mib` leaves it",
                output.limit
            ));
        }
        if ratio_is_absurd(output.bytes, taken) {
            return bomb(format!(
                "it unpacks to more than {MAX_RATIO} times its size"
            ));
        }
        output
            .out
            .write_all(buffer.get(..read).unwrap_or_default())?;
        Ok(read)
    }
}

/// Reads all frames of a zstd stream; those to be skipped hold tables of contents.
struct Zstd<'a, R: Read> {
    state: Frame<'a, R>,
}

/// A frame whose first bytes were looked at.
type Begun<'a, R> = Chain<Cursor<[u8; 4]>, &'a mut BufReader<Hashing<R>>>;

enum Frame<'a, R: Read> {
    Between(&'a mut BufReader<Hashing<R>>),
    In(Box<StreamingDecoder<Begun<'a, R>, FrameDecoder>>),
    Broken,
}

impl<'a, R: Read> Zstd<'a, R> {
    fn new(input: &'a mut BufReader<Hashing<R>>) -> Self {
        let state = Frame::Between(input);
        Self { state }
    }

    fn input_bytes(&self) -> u64 {
        match &self.state {
            Frame::Between(input) => input.get_ref().bytes(),
            Frame::In(decoder) => decoder.get_ref().get_ref().1.get_ref().bytes(),
            Frame::Broken => 0,
        }
    }
}

impl<R: Read> Read for Zstd<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let damaged = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            match std::mem::replace(&mut self.state, Frame::Broken) {
                Frame::Broken => return Err(damaged("the zstd stream is damaged".to_owned())),
                Frame::In(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    if read > 0 {
                        self.state = Frame::In(decoder);
                        return Ok(read);
                    }
                    self.state = Frame::Between(decoder.into_inner().into_inner().1);
                }
                Frame::Between(input) => {
                    if input.fill_buf()?.is_empty() {
                        self.state = Frame::Between(input);
                        return Ok(0);
                    }
                    let mut magic = [0; 4];
                    input.read_exact(&mut magic)?;
                    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18] = magic {
                        skip_frame(input)?;
                        self.state = Frame::Between(input);
                        continue;
                    }
                    let frame = Cursor::new(magic).chain(input);
                    let decoder = StreamingDecoder::new_with_max_window_size(frame, ZSTD_WINDOW);
                    let decoder = decoder.map_err(|error| damaged(said(&error)))?;
                    self.state = Frame::In(Box::new(decoder));
                }
            }
        }
    }
}

fn skip_frame(input: &mut impl Read) -> io::Result<()> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    let skipped = io::copy(&mut input.take(length), &mut io::sink())?;
    if skipped < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn said(error: &FrameDecoderError) -> String {
    match error {
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_)) => {
            "what follows its zstd stream is none".to_owned()
        }
        other => other.to_string(),
    }
}
