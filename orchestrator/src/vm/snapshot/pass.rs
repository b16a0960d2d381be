//! One pass over a file: SHA-256, and zero pages given back to the file system.
//!
//! SHA-256 is the long part (each 64-byte block depends on the one before, so one core does it
//! all), hence it has a thread of its own. The calling thread keeps it fed: it finds the data
//! between the holes, reads it, and punches the zero pages that it sees on the way.
//!
//! ```text
//!   caller: next extent ─▶ read block ─▶ send ─▶ find zero pages ─▶ punch
//!                             ▲           │
//!                     empty buffers       ▼ blocks, lengths of holes
//!   hasher:                   └──────── SHA-256
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::digest::Sha256Digest;
use super::error::SnapshotError;
use super::sparse::{Extent, Extents, PAGE, Puncher};

/// Bytes per read: large enough that the system calls do not count, small enough that the blocks
/// in flight stay in the cores' shared cache.
const BLOCK: usize = 256 << 10;
/// Blocks in flight between the reader and the hasher.
const BLOCKS: usize = 8;

/// What happens to the zero pages that the pass finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroPages {
    /// They stay: the file is only read.
    Keep,
    /// They become holes; the content stays the same.
    Punch,
}

/// What one pass found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    /// Digest of the whole file.
    pub(super) sha256: Sha256Digest,
    /// Bytes turned into holes.
    pub(super) punched: u64,
}

enum Piece {
    Data(Vec<u8>, usize),
    Hole(u64),
}

/// Reads the first `len` bytes of `file` once. `path` is for error messages.
///
/// The file must not change meanwhile: a page that becomes non-zero after it was read would be
/// punched all the same.
pub(super) fn run(
    file: &File,
    path: &Path,
    len: u64,
    zero_pages: ZeroPages,
) -> Result<Pass, SnapshotError> {
    thread::scope(|scope| {
        let (pieces, to_hash) = sync_channel(BLOCKS);
        let (give_back, empty) = sync_channel(BLOCKS);
        let hasher = thread::Builder::new()
            .name("snapshot-hash".to_owned())
            .spawn_scoped(scope, move || hash(&to_hash, &give_back))
            .map_err(|error| SnapshotError::io("start a thread to hash", path, error))?;

        let mut puncher = Puncher::new(file, path, zero_pages == ZeroPages::Punch);
        // Moved in, so that the channel closes and the hasher ends, whatever the result.
        let fed = feed(file, path, len, &mut puncher, pieces, &empty);
        let sha256 = match hasher.join() {
            Ok(sha256) => sha256,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        fed?;
        Ok(Pass {
            sha256,
            punched: puncher.finish()?,
        })
    })
}

fn feed(
    file: &File,
    path: &Path,
    len: u64,
    puncher: &mut Puncher<'_>,
    pieces: SyncSender<Piece>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), SnapshotError> {
    let mut allocated = 0;
    for extent in Extents::new(file, path, len) {
        let range = match extent? {
            Extent::Hole(range) => {
                // A failed send means that the hasher panicked; joining it reports that.
                let _ = pieces.send(Piece::Hole(range.end - range.start));
                continue;
            }
            Extent::Data(range) => range,
        };
        let mut at = range.start;
        while at < range.end {
            let buffer = match empty.try_recv() {
                Ok(buffer) => Some(buffer),
                Err(_) if allocated < BLOCKS => {
                    allocated += 1;
                    Some(vec![0; BLOCK])
                }
                Err(_) => empty.recv().ok(),
            };
            let Some(mut buffer) = buffer else {
                return Ok(());
            };
            let want = usize::try_from(range.end - at).map_or(BLOCK, |left| left.min(BLOCK));
            file.read_exact_at(&mut buffer[..want], at)
                .map_err(|error| SnapshotError::io("read", path, error))?;
            for page in buffer[..want].chunks(PAGE) {
                puncher.page(at, page)?;
                at += page.len() as u64;
            }
            let _ = pieces.send(Piece::Data(buffer, want));
        }
    }
    Ok(())
}

fn hash(pieces: &Receiver<Piece>, give_back: &SyncSender<Vec<u8>>) -> Sha256Digest {
    const ZEROS: &[u8] = &[0; 64 << 10];
    let mut sha256 = Sha256::new();
    for piece in pieces {
        match piece {
            Piece::Data(buffer, len) => {
                sha256.update(&buffer[..len]);
                // The reader may have finished; then nobody needs the buffer.
                let _ = give_back.send(buffer);
            }
            Piece::Hole(mut left) => {
                while left > 0 {
                    let part = usize::try_from(left).map_or(ZEROS.len(), |l| l.min(ZEROS.len()));
                    sha256.update(&ZEROS[..part]);
                    left -= part as u64;
                }
            }
        }
    }
    Sha256Digest::from(<[u8; 32]>::from(sha256.finalize()))
}
