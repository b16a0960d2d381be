//! The entries of a tar archive, in their order.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::tree::{Content, DeviceNumber, MAX_SYMLINK_TARGET, Metadata, Mtime, SourceId};

use super::error::Refusal;
use super::header::{BLOCK, BLOCK_SIZE, Header};
use super::limits::Limits;
use super::pax::{self, Pax};
use super::sparse;

/// Limit of an extended header, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// A file, or whatever else an archive brings.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it is in the archive.
    pub(super) path: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) kind: EntryKind,
}

#[derive(Debug)]
pub(super) enum EntryKind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
    Fifo,
}

/// What is refused, with the path of the entry if it is known already.
pub(super) type Refused = (Option<Vec<u8>>, Refusal);

/// Reads an archive from its beginning to its end.
pub(super) struct Archive<'a> {
    file: &'a File,
    source: SourceId,
    length: u64,
    at: u64,
    limits: &'a Limits,
}

/// What precedes an entry.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(
        file: &'a File,
        source: SourceId,
        limits: &'a Limits,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            file,
            source,
            length: file.metadata()?.len(),
            at: 0,
            limits,
        })
    }

    /// Reads the next entry; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Refused> {
        let mut extensions = Extensions::default();
        loop {
            let at = self.at;
            // Some archivers end without the blocks that should.
            if at == self.length {
                return Ok(None);
            }
            let block = self.block().map_err(|refusal| (None, refusal))?;
            let Some(header) = Header::parse(&block, at).map_err(|refusal| (None, refusal))? else {
                return Ok(None);
            };
            let path = extensions.path(&header);
            match self.entry(&header, &mut extensions, at) {
                Ok(None) => {}
                Ok(Some((metadata, kind))) => {
                    return Ok(Some(Entry {
                        path,
                        metadata,
                        kind,
                    }));
                }
                Err(refusal) => {
                    let is_extension = matches!(header.kind(), b'x' | b'L' | b'K');
                    let named = is_extension.then(|| self.next_path(&header, &extensions, at));
                    return Err((Some(named.flatten().unwrap_or(path)), refusal));
                }
            }
        }
    }

    /// Returns the path of the entry that an extended header at `at` is about, if there is one.
    fn next_path(&self, header: &Header<'_>, extensions: &Extensions, at: u64) -> Option<Vec<u8>> {
        let size = u64::try_from(header.size().ok()?).ok()?;
        let end = at.checked_add(BLOCK)?.checked_add(size)?;
        let next = end.checked_next_multiple_of(BLOCK)?;
        let mut block = [0; BLOCK_SIZE];
        self.file.read_exact_at(&mut block, next).ok()?;
        let header = Header::parse(&block, next).ok().flatten()?;
        Some(extensions.path(&header))
    }

    /// Reads what belongs to a header; `None` if it is about the next one.
    fn entry(
        &mut self,
        header: &Header<'_>,
        extensions: &mut Extensions,
        at: u64,
    ) -> Result<Option<(Metadata, EntryKind)>, Refusal> {
        let size = u64::try_from(header.size()?);
        let mut size = size.map_err(|_| header.damaged("its size is negative"))?;
        match header.kind() {
            b'x' => extensions.pax = pax::parse(&self.extension(size, at)?, at)?,
            b'L' => extensions.long_path = Some(until_nul(self.extension(size, at)?)),
            b'K' => extensions.long_link = Some(until_nul(self.extension(size, at)?)),
            // What is about all entries, as of `git archive`, and the volume's label.
            b'g' | b'V' => drop(self.extension(size, at)?),
            kind => {
                size = extensions.pax.size.unwrap_or(size);
                let extensions = std::mem::take(extensions);
                let metadata = extensions.metadata(header)?;
                let kind = self.kind(kind, header, extensions, size)?;
                return Ok(Some((metadata, kind)));
            }
        }
        Ok(None)
    }

    fn kind(
        &mut self,
        kind: u8,
        header: &Header<'_>,
        extensions: Extensions,
        size: u64,
    ) -> Result<EntryKind, Refusal> {
        let is_directory = || extensions.path(header).ends_with(b"/");
        match kind {
            // Before POSIX, a directory was a file with a slash.
            0 | b'0' if is_directory() => {
                self.skip(size, header)?;
                Ok(EntryKind::Directory)
            }
            0 | b'0' | b'7' | b'S' => {
                let content = self.content(kind, header, &extensions.pax, size)?;
                if content.size() > self.limits.file {
                    return Err(Refusal::TooMuch {
                        what: "bytes in one file",
                        limit: self.limits.file,
                    });
                }
                Ok(EntryKind::File(content))
            }
            b'1' => {
                // Some archivers repeat the content.
                self.skip(size, header)?;
                Ok(EntryKind::HardLink(extensions.link(header)))
            }
            b'2' => {
                let target = extensions.link(header);
                let fits = (1..=MAX_SYMLINK_TARGET).contains(&target.len());
                if !fits || target.contains(&0) {
                    return Err(Refusal::SymlinkTarget);
                }
                Ok(EntryKind::Symlink(target))
            }
            b'3' => Ok(EntryKind::CharDevice(device(header)?)),
            b'4' => Ok(EntryKind::BlockDevice(device(header)?)),
            b'5' | b'D' => {
                // With names in it, of an incremental archive.
                self.skip(size, header)?;
                Ok(EntryKind::Directory)
            }
            b'6' => Ok(EntryKind::Fifo),
            other => Err(Refusal::Kind {
                kind: char::from(other),
            }),
        }
    }

    /// Finds the content of a file, of which the archive has `stored` bytes.
    fn content(
        &mut self,
        kind: u8,
        header: &Header<'_>,
        pax: &Pax,
        stored: u64,
    ) -> Result<Content, Refusal> {
        if kind == b'S' {
            let map = self.gnu_map(header)?;
            let size = u64::try_from(header.real_size()?).map_err(|_| Refusal::Sparse)?;
            let position = self.skip(stored, header)?;
            return sparse::content(size, &map, (self.source, position, stored));
        }
        let begin = self.at;
        let records = &pax.sparse;
        let size = records.size.unwrap_or(stored);
        if records.is_in_content {
            let map = self.map_in_content(begin.saturating_add(stored))?;
            let taken = self.at - begin;
            let stored = stored.checked_sub(taken).ok_or(Refusal::Sparse)?;
            let position = self.skip(stored, header)?;
            return sparse::content(size, &map, (self.source, position, stored));
        }
        let position = self.skip(stored, header)?;
        match &records.map {
            Some(map) => {
                self.check_extents(map.len() as u64 / 2)?;
                sparse::content(size, map, (self.source, position, stored))
            }
            None => Ok(Content::whole(self.source, position, stored)),
        }
    }

    /// Reads the map of GNU's own format: in the header, and in blocks behind it.
    fn gnu_map(&mut self, header: &Header<'_>) -> Result<Vec<u64>, Refusal> {
        let (mut pairs, mut more) = header.extents()?;
        while more {
            self.check_extents(pairs.len() as u64)?;
            let at = self.at;
            let block = self.block()?;
            let found = Header::more_extents(&block, at)?;
            pairs.extend(found.0);
            more = found.1;
        }
        let numbers = pairs
            .into_iter()
            .flat_map(|(offset, length)| [offset, length]);
        let numbers = numbers.map(|number| u64::try_from(number).map_err(|_| Refusal::Sparse));
        numbers.collect()
    }

    /// Reads the map that precedes the content: lines of numbers in whole blocks, the first their
    /// count.
    fn map_in_content(&mut self, end: u64) -> Result<Vec<u64>, Refusal> {
        let (mut map, mut count, mut line) = (Vec::new(), None, Vec::new());
        loop {
            if self.at >= end {
                return Err(Refusal::Sparse);
            }
            for byte in self.block()? {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(Refusal::Sparse);
                    }
                    continue;
                }
                let number = pax::number(&line).ok_or(Refusal::Sparse)?;
                line.clear();
                match count {
                    None => {
                        self.check_extents(number)?;
                        count = Some(number.checked_mul(2).ok_or(Refusal::Sparse)?);
                    }
                    Some(_) => map.push(number),
                }
                if count == Some(map.len() as u64) {
                    return Ok(map);
                }
            }
        }
    }

    fn check_extents(&self, extents: u64) -> Result<(), Refusal> {
        let limit = self.limits.extents as u64;
        if extents > limit {
            let what = "extents of files with holes";
            return Err(Refusal::TooMuch { what, limit });
        }
        Ok(())
    }

    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, Refusal> {
        if size > MAX_EXTENSION {
            return Err(Refusal::TooMuch {
                what: "bytes in one extended header",
                limit: MAX_EXTENSION,
            });
        }
        let length = usize::try_from(size).unwrap_or_default();
        let mut bytes = vec![0; length];
        self.ensure(size, at)?;
        self.file.read_exact_at(&mut bytes, self.at)?;
        self.at += size.next_multiple_of(BLOCK);
        Ok(bytes)
    }

    /// Goes behind content and returns where it begins.
    fn skip(&mut self, size: u64, header: &Header<'_>) -> Result<u64, Refusal> {
        let position = self.at;
        let end = position.checked_add(size).filter(|end| *end <= self.length);
        let end = end.ok_or_else(|| header.damaged("its content is cut off"))?;
        // The last entry may lack what fills its block.
        self.at = end.next_multiple_of(BLOCK).min(self.length);
        Ok(position)
    }

    fn block(&mut self) -> Result<[u8; BLOCK_SIZE], Refusal> {
        let mut block = [0; BLOCK_SIZE];
        self.ensure(BLOCK, self.at)?;
        self.file.read_exact_at(&mut block, self.at)?;
        self.at += BLOCK;
        Ok(block)
    }

    fn ensure(&self, size: u64, at: u64) -> Result<(), Refusal> {
        let end = self.at.checked_add(size.next_multiple_of(BLOCK));
        let what = "it is cut off";
        end.filter(|end| *end <= self.length)
            .map(drop)
            .ok_or(Refusal::Damaged { at, what })
    }
}

impl Extensions {
    fn path(&self, header: &Header<'_>) -> Vec<u8> {
        let given = self.pax.path.as_ref().or(self.long_path.as_ref());
        given.map_or_else(|| header.path(), Clone::clone)
    }

    fn link(&self, header: &Header<'_>) -> Vec<u8> {
        let given = self.pax.link.as_ref().or(self.long_link.as_ref());
        given.map_or_else(|| header.link().to_vec(), Clone::clone)
    }

    fn metadata(&self, header: &Header<'_>) -> Result<Metadata, Refusal> {
        let owner = |id: i64| u32::try_from(id).map_err(|_| header.damaged("it has no such owner"));
        let mode = header.mode()? & 0o7777;
        let mtime = Mtime {
            seconds: header.mtime()?,
            nanoseconds: 0,
        };
        Ok(Metadata {
            mode: u16::try_from(mode).unwrap_or_default(),
            uid: owner(self.pax.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: owner(self.pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            mtime: self.pax.mtime.unwrap_or(mtime),
            xattrs: (!self.pax.xattrs.is_empty()).then(|| Box::new(self.pax.xattrs.clone())),
        })
    }
}

fn device(header: &Header<'_>) -> Result<DeviceNumber, Refusal> {
    let (major, minor) = header.device()?;
    let number = u32::try_from(major).ok().zip(u32::try_from(minor).ok());
    number
        .and_then(|(major, minor)| DeviceNumber::new(major, minor))
        .ok_or(Refusal::Device)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
