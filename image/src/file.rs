//! Reading and writing whole files: bounded, private, durable.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ironclaw_host::regular_file;
use ironclaw_store::Sha256Digest;

use crate::error::TemplateError;

/// Opens a file for reading. What is no file, such as a named pipe or a device, is an error: to
/// open or to read it might take for ever.
pub(crate) fn open(path: &Path) -> Result<File, TemplateError> {
    regular_file::open(path).map_err(TemplateError::io("open", path))
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, TemplateError> {
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

/// Whether something is there; any other error than its absence is one.
pub(crate) fn exists(path: &Path) -> Result<bool, TemplateError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(TemplateError::io("look at", path)(error)),
    }
}

/// Opens a lock file, mode 0600; it never has content.
pub(crate) fn open_lock(path: &Path) -> Result<File, TemplateError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(TemplateError::io("open", path))
}

/// Computes the digest of a file's content.
pub(crate) fn digest(path: &Path) -> Result<Sha256Digest, TemplateError> {
    Sha256Digest::of_reader(open(path)?).map_err(TemplateError::io("read", path))
}
