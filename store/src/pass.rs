//! Hashes an artefact's file and turns its zero pages into holes, when it is published or verified.
//!
//! The digest is SHA-256 over the SHA-256 digests of the file's blocks of [`BLOCK`] bytes, the last
//! of which may be shorter. So all processors can work on it, each byte is read once, and blocks of
//! zeros, half of an idle guest's memory, need no hashing at all.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::digest::Sha256Digest;
use crate::sparse::{Extent, Extents, PAGE, Puncher};
use ironclaw_host::sys;

/// Size of a block with a digest of its own. Part of the manifest's format.
pub(crate) const BLOCK: usize = 64 << 10;
/// Bytes that one thread takes at a time: a run of zero pages is punched in pieces of at most this
/// size, and the disk can begin to write early.
const SHARE_BYTES: u64 = 2 << 20;
/// Limit of the threads that work on one file.
const MAX_THREADS: usize = 4;

/// The treatment of zero pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPages {
    /// Keep them: the file is only read.
    Keep,
    /// Turn them into holes, and start the writeback of the others; the content stays the same.
    Punch,
}

/// The result of a pass over a file.
#[derive(Debug)]
pub struct Passed {
    /// The digest of the content.
    pub digest: Sha256Digest,
    /// Bytes turned into holes.
    pub punched: u64,
}

/// Reads the first `len` bytes of `file`.
///
/// The file must not change meanwhile: a page that becomes non-zero after it was read would be
/// punched all the same.
///
/// # Errors
/// As for `read(2)` and `fallocate(2)`.
pub fn hash_and_punch_holes(
    file: &File,
    len: u64,
    zero_pages: ZeroPages,
) -> Result<Passed, io::Error> {
    let pass = Pass {
        file,
        len,
        zero_pages,
        next: AtomicU64::new(0),
    };
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_THREADS);
    let found = thread::scope(|scope| {
        let worker = || thread::Builder::new().spawn_scoped(scope, || pass.work());
        // Fewer if the host has no more threads: this one does what is left.
        let workers: Vec<_> = (1..threads).map_while(|_| worker().ok()).collect();
        let ours = pass.work();
        let theirs = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(ours)
            .chain(theirs)
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(Passed {
        digest: pass.digest(&found)?,
        punched: found.iter().map(|found| found.punched).sum(),
    })
}

/// One pass, shared by the threads that work at it.
struct Pass<'a> {
    file: &'a File,
    len: u64,
    zero_pages: ZeroPages,
    /// The first byte that no thread has taken.
    next: AtomicU64,
}

/// The results of one thread.
#[derive(Default)]
struct Hashed {
    /// The blocks that are not all zeros, with their digests.
    digests: Vec<(u64, [u8; 32])>,
    punched: u64,
}

impl Pass<'_> {
    /// Processes shares until there are none left.
    fn work(&self) -> Result<Hashed, io::Error> {
        let mut found = Hashed::default();
        let mut block = Block::new();
        loop {
            let start = self.next.fetch_add(SHARE_BYTES, Ordering::Relaxed);
            if start >= self.len {
                return Ok(found);
            }
            let share = start..(start + SHARE_BYTES).min(self.len);
            self.share(share, &mut block, &mut found)?;
        }
    }

    fn share(
        &self,
        share: Range<u64>,
        block: &mut Block,
        found: &mut Hashed,
    ) -> Result<(), io::Error> {
        let punch = self.zero_pages == ZeroPages::Punch;
        let mut puncher = Puncher::new(self.file, punch);
        for extent in Extents::new(self.file, share.clone()) {
            let Extent::Data(data) = extent? else {
                continue;
            };
            let mut at = data.start;
            while at < data.end {
                let index = at / BLOCK as u64;
                if index != block.index {
                    found.digests.extend(block.turn_to(index, self.len));
                }
                let end = data.end.min((index + 1) * BLOCK as u64);
                let part = block.part(at..end);
                self.file.read_exact_at(part, at)?;
                let mut filled = false;
                for page in part.chunks(PAGE) {
                    filled |= !puncher.page(at, page)?;
                    at += page.len() as u64;
                }
                block.filled |= filled;
            }
        }
        found.digests.extend(block.turn_to(Block::NONE, self.len));
        found.punched += puncher.finish()?;
        if punch {
            sys::start_writing(self.file, &share);
        }
        Ok(())
    }

    /// Computes the digest of the whole, including the blocks of zeros, which no thread hashed.
    fn digest(&self, found: &[Hashed]) -> Result<Sha256Digest, io::Error> {
        let too_large = || {
            let large = io::ErrorKind::FileTooLarge;
            io::Error::from(large)
        };
        let block = BLOCK as u64;
        let blocks = usize::try_from(self.len.div_ceil(block)).map_err(|_| too_large())?;
        let zeros: [u8; 32] = Sha256::digest([0; BLOCK]).into();
        let mut digests = vec![zeros; blocks];
        // A last, shorter block of zeros has another digest.
        if let (Some(last), Ok(tail)) = (digests.last_mut(), usize::try_from(self.len % block))
            && tail != 0
        {
            *last = Sha256::digest(&[0; BLOCK][..tail]).into();
        }
        for (index, digest) in found.iter().flat_map(|found| &found.digests) {
            let index = usize::try_from(*index).map_err(|_| too_large())?;
            digests[index] = *digest;
        }
        Ok(<[u8; 32]>::from(Sha256::digest(digests.as_flattened())).into())
    }
}

/// The current block of a thread.
struct Block {
    index: u64,
    content: Box<[u8]>,
    /// Whether anything but zeros was read.
    filled: bool,
}

impl Block {
    /// No index of a block.
    const NONE: u64 = u64::MAX;

    fn new() -> Self {
        Self {
            index: Self::NONE,
            content: vec![0; BLOCK].into_boxed_slice(),
            filled: false,
        }
    }

    /// Begins block `index` of a file with `len` bytes; returns the digest of the one before,
    /// unless that was all zeros.
    fn turn_to(&mut self, index: u64, len: u64) -> Option<(u64, [u8; 32])> {
        let done = self.filled.then(|| {
            let left = len - self.index * BLOCK as u64;
            let bytes = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
            (self.index, Sha256::digest(&self.content[..bytes]).into())
        });
        self.index = index;
        self.filled = false;
        // Holes are not read.
        self.content.fill(0);
        done
    }

    /// Returns the place in this block of the bytes in `range` of the file.
    fn part(&mut self, range: Range<u64>) -> &mut [u8] {
        let start = range.start % BLOCK as u64;
        let end = start + (range.end - range.start);
        let within = |at: u64| usize::try_from(at).map_or(BLOCK, |at| at.min(BLOCK));
        &mut self.content[within(start)..within(end)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt as _;

    /// Computes the digest by its definition.
    fn defined(content: &[u8]) -> Sha256Digest {
        let mut digests = Sha256::new();
        for block in content.chunks(BLOCK) {
            digests.update(Sha256::digest(block));
        }
        <[u8; 32]>::from(digests.finalize()).into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_digest_is_as_defined_and_punching_keeps_the_content(
            len in 1_u64..(5 << 20),
            // Offset, length and byte: zeros are data, too, until they are punched.
            writes in proptest::collection::vec(
                (0_u64..(5 << 20), 1_usize..300_000, prop_oneof![Just(0_u8), any::<u8>()]),
                0..12,
            ),
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            let size = usize::try_from(len).unwrap();
            let mut content = vec![0; size];
            for (start, bytes, value) in writes {
                let start = usize::try_from(start).unwrap() % size;
                let end = (start + bytes).min(size);
                content[start..end].fill(value);
                file.write_all_at(&content[start..end], start as u64).unwrap();
            }
            let before = file.metadata().unwrap().blocks();
            let kept = hash_and_punch_holes(&file, len, ZeroPages::Keep).unwrap();
            prop_assert_eq!(kept.digest, defined(&content));
            prop_assert_eq!(kept.punched, 0);
            let punched = hash_and_punch_holes(&file, len, ZeroPages::Punch).unwrap();
            prop_assert_eq!(punched.digest, kept.digest);
            let mut now = vec![1; size];
            file.read_exact_at(&mut now, 0).unwrap();
            prop_assert!(now == content);
            file.sync_all().unwrap();
            prop_assert!(before == 0 || file.metadata().unwrap().blocks() <= before + 16);
        }
    }

    #[test]
    fn a_page_of_zeros_becomes_a_hole_and_its_neighbours_stay() {
        let file = tempfile::tempfile().unwrap();
        let share = usize::try_from(SHARE_BYTES).unwrap();
        let mut content = vec![7; 2 * share];
        // Across the border of two shares, hence in two pieces.
        content[share - 4 * PAGE..share + 4 * PAGE].fill(0);
        file.write_all_at(&content, 0).unwrap();
        let len = content.len() as u64;
        let passed = hash_and_punch_holes(&file, len, ZeroPages::Punch).unwrap();
        assert_eq!(passed.punched, 8 * PAGE as u64);
        assert_eq!(passed.digest, defined(&content));
    }
}
