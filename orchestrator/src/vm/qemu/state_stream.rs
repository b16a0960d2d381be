//! Splits QEMU's migration stream into the two files of a snapshot.
//!
//! A clone maps its RAM privately, so `x-ignore-shared` can't leave it out: QEMU sends all of it.
//! Here the pages of RAM go to a memory file, and the rest to a state file, as if RAM had been
//! shared. So clones of a checkpoint share its memory like those of any other snapshot.
//!
//! ```text
//!   header, configuration
//!   START ram: blocks     PART ram: pages …     END ram: pages
//!   FULL device …         end, description
//! ```
//!
//! The format is that of QEMU's migration/savevm.c and migration/ram.c. RAM is the only section in
//! parts: everything after its end is copied unchanged.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;

/// The name of the guest's RAM block, the id of its memory backend.
const RAM_BLOCK: &[u8] = b"ram";

const MAGIC: u32 = 0x5145_564d;
const VERSION: u32 = 3;

const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const SUBSECTION: u8 = 5;
const CONFIGURATION: u8 = 7;
const FOOTER: u8 = 0x7e;

const PAGE_BYTES: usize = 4096;
const ZERO_PAGE: u64 = 0x02;
const MEMORY_SIZE: u64 = 0x04;
const PAGE: u64 = 0x08;
const END_OF_SECTION: u64 = 0x10;
const SAME_BLOCK: u64 = 0x20;
const FLAGS: u64 = PAGE_BYTES as u64 - 1;

/// More blocks than any machine has.
const MAX_BLOCKS: usize = 64;
/// Limit of the state without RAM, in bytes: devices take some 60 kB, firmware 128 KiB.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// Splits `stream`: copies the pages of RAM to their places in `memory`, which is `ram_bytes` of
/// zeros, and the rest to `state`.
///
/// # Errors
/// An error of reading or writing; [`io::ErrorKind::InvalidData`] for anything that is no such
/// stream.
pub(super) fn split(
    stream: impl Read,
    ram_bytes: u64,
    memory: &File,
    state: &File,
) -> io::Result<()> {
    let mut splitter = Splitter {
        stream: BufReader::with_capacity(1 << 20, stream),
        state: BufWriter::new(state),
        memory,
        written: vec![false; usize::try_from(ram_bytes / PAGE_BYTES as u64).unwrap_or(0)],
        block: None,
        copied: 0,
    };
    splitter.run()?;
    splitter.state.flush()
}

struct Splitter<'a, R> {
    stream: BufReader<R>,
    state: BufWriter<&'a File>,
    memory: &'a File,
    /// The pages of RAM that are not zeros any more.
    written: Vec<bool>,
    /// The block of the last page.
    block: Option<Vec<u8>>,
    /// Number of bytes of state.
    copied: u64,
}

fn invalid(what: impl Into<String>) -> io::Error {
    let what = what.into();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("QEMU's state is not as it is known: {what}"),
    )
}

impl<R: Read> Splitter<'_, R> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.copied += bytes.len() as u64;
        if self.copied > MAX_STATE_BYTES {
            return Err(invalid(format!("it has more than {MAX_STATE_BYTES} bytes")));
        }
        self.state.write_all(bytes)
    }

    /// Copies so many bytes; returns them.
    fn copy<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.take()?;
        self.put(&bytes)?;
        Ok(bytes)
    }

    fn copy_u8(&mut self) -> io::Result<u8> {
        Ok(u8::from_be_bytes(self.copy()?))
    }

    fn copy_u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.copy()?))
    }

    fn copy_u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_be_bytes(self.copy()?))
    }

    fn copy_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        self.put(&bytes)?;
        Ok(bytes)
    }

    /// Copies a text with its length in one byte.
    fn copy_name(&mut self) -> io::Result<Vec<u8>> {
        let count = self.copy_u8()?;
        self.copy_bytes(count.into())
    }

    fn run(&mut self) -> io::Result<()> {
        if (self.copy_u32()?, self.copy_u32()?) != (MAGIC, VERSION) {
            return Err(invalid("the header is another one"));
        }
        let id = self.copy_to_ram()?;
        self.blocks()?;
        self.footer(id)?;
        loop {
            let kind = u8::from_be_bytes(self.take()?);
            let of = u32::from_be_bytes(self.take()?);
            if of != id || !matches!(kind, SECTION_PART | SECTION_END) {
                return Err(invalid(format!(
                    "section {kind} of {of} comes before RAM's end"
                )));
            }
            self.put(&[kind])?;
            self.put(&of.to_be_bytes())?;
            self.pages()?;
            self.footer(id)?;
            if kind == SECTION_END {
                break;
            }
        }
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => self.put(&buffer[..count])?,
            }
        }
    }

    /// Copies everything before the blocks of RAM; returns the number of RAM's section.
    fn copy_to_ram(&mut self) -> io::Result<u32> {
        let mut kind = self.copy_u8()?;
        if kind == CONFIGURATION {
            let count = self.copy_u32()?;
            if count > 64 {
                return Err(invalid("the machine's name is too long"));
            }
            self.copy_bytes(count as usize)?;
            kind = self.copy_u8()?;
        }
        while kind == SUBSECTION {
            let name = self.copy_name()?;
            let _version = self.copy_u32()?;
            if name != b"configuration/capabilities" {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(invalid(format!("there is a subsection {name:?}")));
            }
            for _ in 0..self.copy_u32()?.min(64) {
                self.copy_name()?;
            }
            kind = self.copy_u8()?;
        }
        let id = self.copy_u32()?;
        if kind != SECTION_START || self.copy_name()? != b"ram" {
            return Err(invalid(format!(
                "RAM does not come first, but section {kind}"
            )));
        }
        let _instance = self.copy_u32()?;
        let _version = self.copy_u32()?;
        Ok(id)
    }

    /// Copies the list of RAM's blocks.
    fn blocks(&mut self) -> io::Result<()> {
        let header = self.copy_u64()?;
        if header & FLAGS != MEMORY_SIZE {
            return Err(invalid("the size of memory is missing"));
        }
        let mut left = header & !FLAGS;
        for _ in 0..MAX_BLOCKS {
            if left == 0 {
                break;
            }
            let name = self.copy_name()?;
            let bytes = self.copy_u64()?;
            let _address = self.copy_u64()?;
            let ram_bytes = (self.written.len() * PAGE_BYTES) as u64;
            if name == RAM_BLOCK && bytes != ram_bytes {
                return Err(invalid(format!("RAM has {bytes} bytes, not {ram_bytes}")));
            }
            left = left
                .checked_sub(bytes)
                .ok_or_else(|| invalid("its blocks are larger than memory"))?;
        }
        if left > 0 || self.copy_u64()? != END_OF_SECTION {
            return Err(invalid("its blocks are not memory"));
        }
        Ok(())
    }

    /// Handles the pages of a section: those of RAM go to the memory file, and the section
    /// continues without them.
    fn pages(&mut self) -> io::Result<()> {
        loop {
            let header = u64::from_be_bytes(self.take()?);
            let (at, flags) = (header & !FLAGS, header & FLAGS);
            if header == END_OF_SECTION {
                return self.put(&header.to_be_bytes());
            }
            if flags & SAME_BLOCK == 0 {
                let count = u8::from_be_bytes(self.take()?);
                let mut name = vec![0; count.into()];
                self.stream.read_exact(&mut name)?;
                self.block = Some(name);
            }
            let block = self.block.clone();
            let block = block.ok_or_else(|| invalid("a page is of no block"))?;
            let is_zero = match flags & !SAME_BLOCK {
                ZERO_PAGE => true,
                PAGE => false,
                flags => return Err(invalid(format!("a page has flags {flags:#x}"))),
            };
            if block == RAM_BLOCK {
                self.page_of_ram(at, is_zero)?;
            } else {
                self.page_of_other(at, is_zero, &block)?;
            }
        }
    }

    fn page_of_ram(&mut self, at: u64, is_zero: bool) -> io::Result<()> {
        let index = usize::try_from(at / PAGE_BYTES as u64).unwrap_or(usize::MAX);
        let Some(written) = self.written.get_mut(index) else {
            return Err(invalid(format!("a page is at {at:#x}, beyond RAM")));
        };
        let was_written = std::mem::replace(written, !is_zero);
        if is_zero {
            if self.take::<1>()? != [0] {
                return Err(invalid("a page is filled with another byte than zero"));
            }
            if was_written {
                self.memory.write_all_at(&[0; PAGE_BYTES], at)?;
            }
            return Ok(());
        }
        let page: [u8; PAGE_BYTES] = self.take()?;
        self.memory.write_all_at(&page, at)
    }

    /// Writes the block's name with it, because the page before may be gone.
    fn page_of_other(&mut self, at: u64, is_zero: bool, block: &[u8]) -> io::Result<()> {
        let flag = if is_zero { ZERO_PAGE } else { PAGE };
        self.put(&(at | flag).to_be_bytes())?;
        self.put(&[u8::try_from(block.len()).unwrap_or(u8::MAX)])?;
        self.put(block)?;
        if is_zero {
            self.copy::<1>().map(drop)
        } else {
            self.copy::<PAGE_BYTES>().map(drop)
        }
    }

    fn footer(&mut self, id: u32) -> io::Result<()> {
        let (mark, of) = (self.copy_u8()?, self.copy_u32()?);
        if (mark, of) == (FOOTER, id) {
            Ok(())
        } else {
            Err(invalid("a section does not end where it should"))
        }
    }
}

#[cfg(test)]
mod tests;
