//! Copies sparse files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use crate::sparse::{Extent, Extents};

/// Bytes per read, where the kernel copies nothing by itself.
const CHUNK: usize = 1 << 20;

/// Makes the empty file `to` a copy of the first `bytes` of `from`, and of that size: one that shares
/// its blocks on a file system that can do that, with holes where `from` has them on any other.
///
/// # Errors
/// As for `read(2)` and `write(2)`.
pub fn copy_file(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    if from.metadata()?.len() == bytes && ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    copy_data(from, to, bytes)
}

/// Copies the data between the holes.
fn copy_data(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    to.set_len(bytes)?;
    for extent in Extents::new(from, 0..bytes) {
        let Extent::Data(data) = extent? else {
            continue;
        };
        let (mut at, mut target) = (data.start, data.start);
        while at < data.end {
            let wanted = usize::try_from(data.end - at).unwrap_or(usize::MAX);
            match copy_file_range(from, Some(&mut at), to, Some(&mut target), wanted) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                // Two file systems, or one that can't.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    copy_by_reading(from, to, at, data.end)?;
                    break;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

fn copy_by_reading(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let count = match from.read_at(&mut buffer[..wanted], at) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // A file that is shorter reads as zeros from there.
        if count == 0 {
            break;
        }
        to.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::sparse::PAGE;

    /// Returns a file with a page of data at each of these pages, and so many pages in all.
    fn sparse(data: &[usize], pages: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        for page in data {
            file.write_all_at(&[7; PAGE], (page * PAGE) as u64).unwrap();
        }
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let bytes = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn a_copy_has_the_content_and_the_holes() {
        let pages = 4096;
        let from = sparse(&[0, 5, 4000], pages);
        type Copy = fn(&File, &File, u64) -> io::Result<()>;
        for copy in [copy_file as Copy, copy_data] {
            let to = tempfile::tempfile().unwrap();
            copy(&from, &to, (pages * PAGE) as u64).unwrap();
            assert!(content(&to) == content(&from));
            let occupied = to.metadata().unwrap().blocks() * 512;
            assert!(occupied <= 64 * PAGE as u64, "{occupied} bytes");
        }
        let to = sparse(&[], pages);
        copy_by_reading(&from, &to, 0, (pages * PAGE) as u64).unwrap();
        assert!(content(&to) == content(&from));
    }

    #[test]
    fn a_file_of_another_size_is_cut_or_filled_up_with_zeros() {
        let from = sparse(&[0, 3], 4);
        for pages in [1, 9] {
            let to = tempfile::tempfile().unwrap();
            copy_file(&from, &to, (pages * PAGE) as u64).unwrap();
            let mut expected = content(&from);
            expected.resize(pages * PAGE, 0);
            assert!(content(&to) == expected, "{pages}");
        }
    }
}
