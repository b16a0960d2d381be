//! Sparse files: finds their data, and punches holes for runs of zeros.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

/// Bytes per page, the unit of holes: the page size of guests, and the block size of the usual file
/// systems.
pub(crate) const PAGE: usize = 4096;
const ZERO_PAGE: &[u8; PAGE] = &[0; PAGE];

/// A part of a file, in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Has to be read; may be zeros nevertheless.
    Data(Range<u64>),
    /// Reads as zeros and occupies nothing.
    Hole(Range<u64>),
}

/// An iterator over the extents of a part of a file, in order and without gaps; all but the last
/// end on a page boundary.
pub(crate) struct Extents<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    ahead: Option<Range<u64>>,
}

impl<'a> Extents<'a> {
    /// Iterates over `part`, which starts on a page boundary.
    pub(crate) fn new(file: &'a File, part: Range<u64>) -> Self {
        Self {
            file,
            at: part.start,
            end: part.end,
            ahead: None,
        }
    }

    /// Returns the data that begins at or after `at`, widened to whole pages: a file system with
    /// smaller blocks may report less.
    fn data_from(&self, at: u64) -> Result<Option<Range<u64>>, io::Error> {
        let failed = |errno: Errno| io::Error::from(errno);
        let start = match seek(self.file, SeekFrom::Data(at)) {
            Ok(start) if start < self.end => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let end = seek(self.file, SeekFrom::Hole(start)).map_err(failed)?;
        let page = PAGE as u64;
        Ok(Some(
            start / page * page..end.next_multiple_of(page).min(self.end),
        ))
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let data = match self.ahead.take() {
            Some(data) => Some(data),
            None => match self.data_from(self.at) {
                Ok(data) => data,
                Err(error) => {
                    self.at = self.end;
                    return Some(Err(error));
                }
            },
        };
        let extent = match data {
            None => Extent::Hole(self.at..self.end),
            Some(data) if data.start > self.at => {
                let hole = Extent::Hole(self.at..data.start);
                self.ahead = Some(data);
                hole
            }
            Some(data) => Extent::Data(self.at..data.end),
        };
        self.at = match &extent {
            Extent::Data(range) | Extent::Hole(range) => range.end,
        };
        Some(Ok(extent))
    }
}

/// Turns zero pages into holes, adjacent ones by one system call.
///
/// Does nothing on a file system that can't punch holes: the file is only larger.
pub(crate) struct Puncher<'a> {
    file: &'a File,
    enabled: bool,
    run: Range<u64>,
    punched: u64,
}

impl<'a> Puncher<'a> {
    pub(crate) fn new(file: &'a File, enabled: bool) -> Self {
        Self {
            file,
            enabled,
            run: 0..0,
            punched: 0,
        }
    }

    /// Handles the page at byte `at`; returns whether it is all zeros. `content` is shorter than a
    /// page only at the end of the file.
    pub(crate) fn page(&mut self, at: u64, content: &[u8]) -> Result<bool, io::Error> {
        if content != &ZERO_PAGE[..content.len()] {
            return Ok(false);
        }
        if !self.enabled {
            return Ok(true);
        }
        if self.run.end != at {
            self.flush()?;
            self.run = at..at;
        }
        self.run.end = at + content.len() as u64;
        Ok(true)
    }

    /// Punches the rest; returns the total of bytes turned into holes.
    pub(crate) fn finish(mut self) -> Result<u64, io::Error> {
        self.flush()?;
        Ok(self.punched)
    }

    fn flush(&mut self) -> Result<(), io::Error> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() || !self.enabled {
            return Ok(());
        }
        let len = run.end - run.start;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(self.file, flags, run.start, len) {
                Ok(()) => self.punched += len,
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.enabled = false,
                Err(errno) => {
                    return Err(errno.into());
                }
            }
            return Ok(());
        }
    }
}
