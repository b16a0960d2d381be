//! Reading and writing whole files: bounded, private, durable.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::TemplateError;
use crate::regular_file;

/// Opens a file for reading. What is no file, such as a named pipe or a device, is an error: to
/// open or to read it might take for ever.
pub(super) fn open(path: &Path) -> Result<File, TemplateError> {
    regular_file::open(path).map_err(TemplateError::io("open", path))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, TemplateError> {
    let mut bytes = Vec::new();
    open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(TemplateError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(TemplateError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// Creates a file, mode 0600, and brings it to the disk.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), TemplateError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(TemplateError::io("create", path))?;
    file.write_all(bytes)
        .map_err(TemplateError::io("write", path))?;
    file.sync_all()
        .map_err(TemplateError::io("bring to the disk", path))
}

/// Brings a directory's entries to the disk.
pub(super) fn sync_directory(path: &Path) -> Result<(), TemplateError> {
    File::open(path)
        .map_err(TemplateError::io("open", path))?
        .sync_all()
        .map_err(TemplateError::io("bring to the disk", path))
}

/// Creates a directory, mode 0700; its parent must exist.
pub(super) fn create_directory(path: &Path) -> Result<(), TemplateError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(TemplateError::io("create directory", path))
}

/// Whether something is there; any other error than its absence is one.
pub(super) fn exists(path: &Path) -> Result<bool, TemplateError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(TemplateError::io("look at", path)(error)),
    }
}

/// Opens a lock file, mode 0600; it never has content.
pub(super) fn open_lock(path: &Path) -> Result<File, TemplateError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(TemplateError::io("open", path))
}
