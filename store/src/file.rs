//! Files of artefacts: private, durable, and opened without following links.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use ironclaw_host::mark;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// Opens `name` in `directory` for reading; `None` if it is no regular file. Neither follows a link
/// nor waits for the other end of a pipe.
///
/// # Errors
/// As for `open(2)`.
pub fn open_regular(directory: &File, name: &str) -> io::Result<Option<File>> {
    open_regular_as(directory, name, OFlags::RDONLY)
}

/// Opens like [`open_regular`], for reading and writing.
///
/// # Errors
/// As for `open(2)`.
pub fn open_regular_to_change(directory: &File, name: &str) -> io::Result<Option<File>> {
    open_regular_as(directory, name, OFlags::RDWR)
}

fn open_regular_as(directory: &File, name: &str, access: OFlags) -> io::Result<Option<File>> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // A link; a socket or a pipe without a reader; a directory opened for writing.
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Reads a file; `None` if it has more than `limit` bytes.
///
/// # Errors
/// As for `read(2)`.
pub fn read_bounded(file: File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Creates a file with mode 0600, and syncs it.
///
/// # Errors
/// As for `open(2)`, `write(2)` and `fsync(2)`.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Syncs a directory's entries.
///
/// # Errors
/// As for `open(2)` and `fsync(2)`.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    mark::open(path)?.sync_all()
}

/// Returns the bytes that the files of the directory at `path` occupy on disk, without holes.
///
/// # Errors
/// As for `readdir(3)`.
pub fn disk_bytes(path: &Path) -> io::Result<u64> {
    /// Bytes per unit of `st_blocks`, independent of the file system's block size (stat(2)).
    const UNIT: u64 = 512;
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        match entry?.metadata() {
            Ok(metadata) => sum += metadata.blocks() * UNIT,
            // Deleted meanwhile: it occupies nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}
