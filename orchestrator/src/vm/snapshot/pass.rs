//! What is done to a snapshot's file when it is published or verified: zero pages become holes,
//! and the content gets a digest.
//!
//! The digest is SHA-256 over the SHA-256 digests of the file's blocks of [`BLOCK`] bytes, the
//! last of which may be shorter. So all processors work at it, and blocks of nothing but zeros,
//! half of an idle guest's memory, need no work at all.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::digest::Sha256Digest;
use super::error::SnapshotError;
use super::sparse::{Extent, Extents, PAGE, Puncher};

/// Bytes of a block that has a digest of its own. Part of the format of a manifest.
pub(super) const BLOCK: usize = 64 << 10;
/// Bytes per read in search of zero pages.
const READ: usize = 256 << 10;
/// Most threads that hash.
const THREADS: usize = 4;

/// What happens to the zero pages that are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroPages {
    /// They stay: the file is only read.
    Keep,
    /// They become holes; the content stays the same.
    Punch,
}

/// A file whose blocks of zeros are known.
#[derive(Debug)]
pub(super) struct Scanned<'a> {
    file: &'a File,
    path: &'a Path,
    len: u64,
    /// Indexes of the blocks that are not all zeros, in order.
    filled: Vec<usize>,
    /// Bytes turned into holes.
    pub(super) punched: u64,
}

/// Reads the data in the first `len` bytes of `file`. `path` is for error messages.
///
/// The file must not change meanwhile: a page that becomes non-zero after it was read would be
/// punched all the same.
pub(super) fn scan<'a>(
    file: &'a File,
    path: &'a Path,
    len: u64,
    zero_pages: ZeroPages,
) -> Result<Scanned<'a>, SnapshotError> {
    let mut puncher = Puncher::new(file, path, zero_pages == ZeroPages::Punch);
    let mut filled = Vec::new();
    let mut buffer = vec![0; READ];
    for extent in Extents::new(file, path, len) {
        let Extent::Data(range) = extent? else {
            continue;
        };
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(range.end - at).map_or(READ, |left| left.min(READ));
            file.read_exact_at(&mut buffer[..want], at)
                .map_err(|error| SnapshotError::io("read", path, error))?;
            for page in buffer[..want].chunks(PAGE) {
                if !puncher.page(at, page)? {
                    let block = block_of(at, path)?;
                    if filled.last() != Some(&block) {
                        filled.push(block);
                    }
                }
                at += page.len() as u64;
            }
        }
    }
    Ok(Scanned {
        file,
        path,
        len,
        filled,
        punched: puncher.finish()?,
    })
}

impl Scanned<'_> {
    /// The digest of the content.
    pub(super) fn digest(&self) -> Result<Sha256Digest, SnapshotError> {
        let threads = thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(THREADS);
        let next = AtomicUsize::new(0);
        let hashed = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| self.work(&next)))
                .collect();
            let results = workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect::<Result<Vec<_>, _>>()
        })?;

        let block = BLOCK as u64;
        let blocks = block_of(self.len.div_ceil(block) * block, self.path)?;
        let zeros: [u8; 32] = Sha256::digest([0; BLOCK]).into();
        let mut digests = vec![zeros; blocks];
        // A last, shorter block of zeros has another digest than the others.
        if let (Some(last), Ok(tail)) = (digests.last_mut(), usize::try_from(self.len % block))
            && tail != 0
        {
            *last = Sha256::digest(&[0; BLOCK][..tail]).into();
        }
        for (index, digest) in hashed.into_iter().flatten() {
            digests[index] = digest;
        }
        Ok(<[u8; 32]>::from(Sha256::digest(digests.as_flattened())).into())
    }

    /// Hashes blocks until there are no more.
    fn work(&self, next: &AtomicUsize) -> Result<Vec<(usize, [u8; 32])>, SnapshotError> {
        let mut hashed = Vec::new();
        let mut buffer = vec![0; BLOCK];
        while let Some(&index) = self.filled.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = index as u64 * BLOCK as u64;
            let len = usize::try_from(self.len - start).map_or(BLOCK, |left| left.min(BLOCK));
            self.file
                .read_exact_at(&mut buffer[..len], start)
                .map_err(|error| SnapshotError::io("read", self.path, error))?;
            hashed.push((index, Sha256::digest(&buffer[..len]).into()));
        }
        Ok(hashed)
    }
}

/// The index of the block that byte `at` is in.
fn block_of(at: u64, path: &Path) -> Result<usize, SnapshotError> {
    usize::try_from(at / BLOCK as u64).map_err(|_| {
        let large = std::io::ErrorKind::FileTooLarge;
        SnapshotError::io("read", path, std::io::Error::from(large))
    })
}
