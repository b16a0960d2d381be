//! Completes a memory file that contains only changes, from the one before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::sparse::{Extent, Extents};

/// Bytes per copy.
const CHUNK: usize = 1 << 20;

/// Fills the holes in the first `bytes` of `changes` with the content of `base`, so that it is a
/// complete memory file; holes of both stay. A page that became zero must be data in `changes`, as
/// Firecracker writes it (docs/snapshotting/snapshot-support.md). Both must be on one file system
/// whose blocks are no larger than a guest's page.
///
/// # Errors
/// As for `read(2)` and `write(2)`.
pub fn complete(changes: &File, base: &File, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    for extent in Extents::new(changes, 0..bytes) {
        let Extent::Hole(hole) = extent? else {
            continue;
        };
        for extent in Extents::new(base, hole) {
            let Extent::Data(data) = extent? else {
                continue;
            };
            let mut at = data.start;
            while at < data.end {
                let wanted = usize::try_from(data.end - at).unwrap_or(CHUNK).min(CHUNK);
                let chunk = &mut buffer[..wanted];
                base.read_exact_at(chunk, at)?;
                changes.write_all_at(chunk, at)?;
                at += wanted as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::PAGE;
    use proptest::prelude::*;

    /// Creates a file with pages of these bytes; holes for `None`.
    fn file(pages: &[Option<u8>]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages.len() * PAGE) as u64).unwrap();
        for (at, page) in pages.iter().enumerate() {
            if let Some(byte) = page {
                file.write_all_at(&[*byte; PAGE], (at * PAGE) as u64)
                    .unwrap();
            }
        }
        file
    }

    fn pages() -> impl Strategy<Value = Vec<(Option<u8>, Option<u8>)>> {
        proptest::collection::vec((any::<Option<u8>>(), any::<Option<u8>>()), 1..64)
    }

    proptest! {
        #[test]
        fn every_page_is_the_changed_one_or_else_that_of_the_base(pages in pages()) {
            let (changed, former): (Vec<_>, Vec<_>) = pages.iter().copied().unzip();
            let (changes, base) = (file(&changed), file(&former));
            complete(&changes, &base, (pages.len() * PAGE) as u64).unwrap();
            for (at, (changed, former)) in pages.into_iter().enumerate() {
                let mut page = [0; PAGE];
                changes.read_exact_at(&mut page, (at * PAGE) as u64).unwrap();
                prop_assert_eq!(page, [changed.or(former).unwrap_or(0); PAGE]);
            }
        }
    }

    #[test]
    fn a_hole_in_both_files_takes_no_disk_space() {
        use std::os::unix::fs::MetadataExt as _;
        let mut sparse = vec![None; 1000];
        let changes = file(&sparse);
        sparse[500] = Some(1);
        let before = changes.metadata().unwrap().blocks();
        complete(&changes, &file(&sparse), 1000 * 4096).unwrap();
        let grown = changes.metadata().unwrap().blocks() - before;
        assert!((1..=64).contains(&grown), "{grown} blocks of 512 bytes");
    }
}
