//! A tar stream that comes in pieces of any size: POSIX archives and GNU's, as far as today's programs
//! write them.

use std::collections::VecDeque;

use ironclaw_protocol::limits::MAX_PATH;
use rustix::fs::Dev;
use tar::{EntryType, Header};

use super::extended::{Extended, in_header};
use super::holes;
use super::malformed::{MAX_EXTENDED, Malformed};
use crate::archive::entry::{BLOCK, Extent, Properties};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File { size: u64 },
    Directory,
    HardLink(Vec<u8>),
    Link(Vec<u8>),
    CharacterDevice(Dev),
    BlockDevice(Dev),
    Fifo,
}

/// An entry, without its content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it is in the archive: it may lead anywhere.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) properties: Properties,
}

/// What takes the parts of an archive.
pub(crate) trait Sink {
    type Error: From<Malformed>;

    /// Begins with an entry.
    fn begin(&mut self, entry: Entry) -> Result<(), Self::Error>;

    /// Takes content of the file that was begun last.
    fn content(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Ends that file.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// A header that says something about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Records,
    LongName,
    LongLink,
    Nothing,
}

#[derive(Debug)]
enum State {
    Header,
    Extended {
        about: About,
        left: u64,
    },
    /// The map of a file with holes, of which so many bytes are left with its content.
    Map {
        left: u64,
        size: u64,
    },
    Content {
        extents: VecDeque<Extent>,
    },
    /// What fills a block.
    Padding {
        left: u64,
    },
    /// What follows the archive, to its last byte.
    Over,
}

/// The reader of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    state: State,
    /// Bytes of what has to be there as a whole: a header, or an extended one, or a map.
    held: Vec<u8>,
    extended: Extended,
    padding: u64,
    is_first: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            state: State::Header,
            held: Vec::new(),
            extended: Extended::default(),
            padding: 0,
            is_first: true,
        }
    }
}

impl Stream {
    /// Takes the next bytes.
    pub(crate) fn push<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let taken = self.take(bytes, sink)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Checks that the archive may end here.
    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        match self.state {
            State::Over => Ok(()),
            // Some write no end.
            State::Header if self.held.is_empty() && self.extended.is_empty() => Ok(()),
            _ => Err(Malformed::Cut),
        }
    }

    /// Takes some of the bytes; returns how many.
    fn take<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, S::Error> {
        match &mut self.state {
            State::Over => Ok(bytes.len()),
            State::Padding { left } => {
                let count = at_most(bytes, *left);
                *left -= count as u64;
                if *left == 0 {
                    self.state = State::Header;
                }
                Ok(count)
            }
            State::Header => {
                let count = bytes.len().min(BLOCK - self.held.len());
                self.held.extend(&bytes[..count]);
                if self.held.len() == BLOCK {
                    let header = std::mem::take(&mut self.held);
                    self.header(&header, sink)?;
                }
                Ok(count)
            }
            State::Extended { about, left } => {
                let count = at_most(bytes, *left);
                if *about != About::Nothing {
                    self.held.extend(&bytes[..count]);
                }
                *left -= count as u64;
                if *left == 0 {
                    let about = *about;
                    let held = std::mem::take(&mut self.held);
                    self.describe(about, held)?;
                    self.pad();
                }
                Ok(count)
            }
            State::Map { left, size } => {
                let (left, size) = (*left, *size);
                let block = (BLOCK - self.held.len() % BLOCK) as u64;
                let count = at_most(bytes, block.min(left));
                self.held.extend(&bytes[..count]);
                let left = left - count as u64;
                self.state = State::Map { left, size };
                if self.held.len().is_multiple_of(BLOCK) || left == 0 {
                    self.map(left, size, sink)?;
                }
                Ok(count)
            }
            State::Content { extents } => {
                let Some(extent) = extents.front_mut() else {
                    sink.end()?;
                    self.pad();
                    return Ok(0);
                };
                let count = at_most(bytes, extent.length);
                sink.content(extent.offset, &bytes[..count])?;
                extent.offset += count as u64;
                extent.length -= count as u64;
                if extent.length == 0 {
                    extents.pop_front();
                }
                if extents.is_empty() {
                    sink.end()?;
                    self.pad();
                }
                Ok(count)
            }
        }
    }

    /// Skips what fills the last block.
    fn pad(&mut self) {
        self.state = match std::mem::take(&mut self.padding) {
            0 => State::Header,
            left => State::Padding { left },
        };
    }

    fn header<S: Sink>(&mut self, block: &[u8], sink: &mut S) -> Result<(), S::Error> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::Over;
            return Ok(self
                .extended
                .is_empty()
                .then_some(())
                .ok_or(Malformed::Cut)?);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if !is_sound(&header) {
            let magics: [&[u8]; 3] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ"];
            let is_compressed = is_first && magics.iter().any(|magic| block.starts_with(magic));
            return Err(match is_compressed {
                true => Malformed::Compressed.into(),
                false => Malformed::Checksum.into(),
            });
        }
        let stored = in_header(&block[124..136], header.entry_size())?;
        let about = match header.entry_type() {
            EntryType::XHeader => About::Records,
            EntryType::GNULongName => About::LongName,
            EntryType::GNULongLink => About::LongLink,
            // What all files have in common: nothing that is wanted here. And a name of the archive.
            EntryType::XGlobalHeader => About::Nothing,
            kind if kind.as_byte() == b'V' => About::Nothing,
            _ => return self.entry(&header, stored, sink),
        };
        if about != About::Nothing && stored > MAX_EXTENDED {
            return Err(Malformed::TooLong.into());
        }
        self.padding = padding(stored);
        self.state = State::Extended {
            about,
            left: stored,
        };
        if stored == 0 {
            self.describe(about, Vec::new())?;
            self.pad();
        }
        Ok(())
    }

    fn describe(&mut self, about: About, bytes: Vec<u8>) -> Result<(), Malformed> {
        match about {
            About::Records => self.extended.read(&bytes),
            About::LongName => {
                self.extended.path = Some(without_terminator(bytes));
                Ok(())
            }
            About::LongLink => {
                self.extended.link = Some(without_terminator(bytes));
                Ok(())
            }
            About::Nothing => Ok(()),
        }
    }

    fn entry<S: Sink>(
        &mut self,
        header: &Header,
        stored: u64,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let extended = std::mem::take(&mut self.extended);
        let stored = extended.size.unwrap_or(stored);
        let path = match (&extended.sparse_name, &extended.path) {
            (Some(name), _) | (None, Some(name)) => name.clone(),
            (None, None) => header.path_bytes().into_owned(),
        };
        let link = extended
            .link
            .clone()
            .or_else(|| header.link_name_bytes().map(Into::into));
        let link = link.unwrap_or_default();
        for path in [&path, &link] {
            if path.len() > MAX_PATH || path.contains(&0) {
                return Err(Malformed::Path.into());
            }
        }
        if path.is_empty() {
            return Err(Malformed::Path.into());
        }
        let kind = match header.entry_type() {
            // As of old.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File {
                size: extended.real_size.unwrap_or(stored),
            },
            EntryType::Directory => Kind::Directory,
            EntryType::Link => Kind::HardLink(link),
            EntryType::Symlink => Kind::Link(link),
            EntryType::Char => Kind::CharacterDevice(device(header)?),
            EntryType::Block => Kind::BlockDevice(device(header)?),
            EntryType::Fifo => Kind::Fifo,
            other => return Err(Malformed::Kind(other.as_byte().into()).into()),
        };
        let has_map = extended.real_size.is_some();
        let properties = extended.properties(header)?;
        let is_file = matches!(kind, Kind::File { .. });
        let size = match kind {
            Kind::File { size } => size,
            _ => 0,
        };
        sink.begin(Entry {
            path,
            kind,
            properties,
        })?;
        if !is_file {
            // Whatever its header says, nothing follows.
            self.state = State::Header;
            return Ok(());
        }
        self.padding = padding(stored);
        if has_map {
            self.state = State::Map { left: stored, size };
            return Ok(());
        }
        let whole = Extent {
            offset: 0,
            length: stored,
        };
        self.content(VecDeque::from([whole]), sink)
    }

    fn content<S: Sink>(
        &mut self,
        mut extents: VecDeque<Extent>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        extents.retain(|extent| extent.length > 0);
        if extents.is_empty() {
            sink.end()?;
            self.pad();
        } else {
            self.state = State::Content { extents };
        }
        Ok(())
    }

    /// Reads the map of a file with holes, if all of it is there.
    fn map<S: Sink>(&mut self, left: u64, size: u64, sink: &mut S) -> Result<(), S::Error> {
        match holes::extents(&self.held, left, size) {
            Some(extents) => {
                self.held = Vec::new();
                self.content(extents?, sink)
            }
            None if left > 0 && self.held.len() < holes::MAX_MAP => Ok(()),
            None => Err(Malformed::Map.into()),
        }
    }
}

/// Returns how many of the bytes there are, up to `limit`.
fn at_most(bytes: &[u8], limit: u64) -> usize {
    usize::try_from(limit).map_or(bytes.len(), |limit| limit.min(bytes.len()))
}

fn padding(stored: u64) -> u64 {
    let block = BLOCK as u64;
    (block - stored % block) % block
}

fn without_terminator(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn is_sound(header: &Header) -> bool {
    let Ok(told) = header.cksum() else {
        return false;
    };
    let mut bytes = *header.as_bytes();
    bytes[148..156].fill(b' ');
    let sum = bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum == told
}

fn device(header: &Header) -> Result<Dev, Malformed> {
    let bytes = header.as_bytes();
    let major = in_header(&bytes[329..337], header.device_major())?;
    let minor = in_header(&bytes[337..345], header.device_minor())?;
    Ok(rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0)))
}

#[cfg(test)]
mod tests;
