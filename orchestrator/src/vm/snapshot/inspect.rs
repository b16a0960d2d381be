//! What is in a snapshot's directory, judged without reading the large files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::defect::{Defect, MANIFEST, Part};
use super::error::SnapshotError;
use super::files::FileRole;
use super::id::SnapshotId;
use super::kind::DirName;
use super::lock::DirLock;
use super::manifest::{MAX_BYTES, Manifest, ManifestError};
use crate::mark::{self, Mark};

/// Result of [`read`]: the manifest or what is wrong, apart from an answer that could not be had.
pub(super) type Finding = Result<Manifest, Defect>;

/// Judges the open directory at `path`, which has this name, by its manifest and the sizes of its
/// files.
pub(super) fn read(directory: &File, path: &Path, name: DirName) -> Result<Finding, SnapshotError> {
    let found = match manifest(directory, path, name)? {
        Ok(manifest) => content(directory, path, name, manifest)?,
        Err(defect) => Err(defect),
    };
    match found {
        Err(_) if !is_ours(directory, path, name.id)? => Ok(Err(Defect::NotOurs)),
        found => Ok(found),
    }
}

/// The manifest in the open directory at `path`, whatever its other files are; it may be that of a
/// snapshot of another kind.
pub(super) fn manifest(
    directory: &File,
    path: &Path,
    name: DirName,
) -> Result<Finding, SnapshotError> {
    let json = match read_manifest(directory, path)? {
        Ok(json) => json,
        Err(defect) => return Ok(Err(defect)),
    };
    Ok(match Manifest::parse(&json) {
        Ok(manifest) if manifest.id == name.id => Ok(manifest),
        Ok(manifest) => Err(Defect::OtherId { found: manifest.id }),
        Err(ManifestError::OtherFormat(found)) => Err(Defect::OtherFormat { found }),
        Err(ManifestError::Invalid(reason)) => Err(Defect::ManifestInvalid { reason }),
    })
}

/// Whether we made the open directory at `path` for the snapshot `id`.
pub(super) fn is_ours(
    directory: &File,
    path: &Path,
    id: SnapshotId,
) -> Result<bool, SnapshotError> {
    let is_ours = || {
        Ok(mark::read(directory)? == Mark::Ours
            || mark::is_named_in(directory, MANIFEST, "id", &id.to_string())?)
    };
    is_ours().map_err(|error: io::Error| SnapshotError::io("inspect", path, error))
}

fn content(
    directory: &File,
    path: &Path,
    name: DirName,
    manifest: Manifest,
) -> Result<Finding, SnapshotError> {
    let found = manifest.kind.name();
    if found != name.kind {
        return Ok(Err(Defect::OtherKind { found }));
    }
    for (role, record) in &manifest.files {
        let (file, expected) = (role.to_string(), record.bytes);
        let stat = match statat(directory, &file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Err(Defect::Missing { file: of(role) })),
            Err(errno) => return Err(SnapshotError::io("inspect", path.join(file), errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Err(Defect::NotRegular { file: of(role) }));
        }
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != expected {
            return Ok(Err(Defect::WrongSize {
                file: of(role),
                expected,
                found,
            }));
        }
    }
    Ok(Ok(manifest))
}

fn of(role: &FileRole) -> Part {
    Part::File(role.clone())
}

/// Judges the snapshot whose directory was at `path` when it was locked, with its files opened.
pub(super) fn check(
    lock: &DirLock,
    path: &Path,
    name: DirName,
) -> Result<Result<(), Defect>, SnapshotError> {
    match lock.is_at(path) {
        Ok(true) => {}
        Ok(false) => return Ok(Err(Defect::Removed)),
        // It, or a directory above it, may be a file by now.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Err(Defect::Removed));
        }
        Err(error) => return Err(SnapshotError::io("inspect", path, error)),
    }
    let manifest = match read(lock.directory(), path, name) {
        Ok(Ok(manifest)) => manifest,
        Ok(Err(defect)) => return Ok(Err(defect)),
        Err(SnapshotError::Io { source, .. }) if !is_the_hosts(&source) => {
            let (file, reason) = (Part::Manifest, source.to_string());
            return Ok(Err(Defect::Unreadable { file, reason }));
        }
        Err(error) => return Err(error),
    };
    for role in manifest.files.keys() {
        let file = role.to_string();
        match open_regular(lock.directory(), &file) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Err(Defect::NotRegular { file: of(role) })),
            Err(error) if is_the_hosts(&error) => {
                return Err(SnapshotError::io("open", path.join(file), error));
            }
            Err(error) => {
                let (file, reason) = (of(role), error.to_string());
                return Ok(Err(Defect::Unreadable { file, reason }));
            }
        }
    }
    Ok(Ok(()))
}

/// Whether any other file could not be opened either.
pub(super) fn is_the_hosts(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn read_manifest(directory: &File, path: &Path) -> Result<Result<Vec<u8>, Defect>, SnapshotError> {
    let failed = |operation, error| SnapshotError::io(operation, path.join(MANIFEST), error);
    let file = match open_regular(directory, MANIFEST) {
        Ok(Some(file)) => file,
        Ok(None) => {
            return Ok(Err(Defect::NotRegular {
                file: Part::Manifest,
            }));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Defect::Missing {
                file: Part::Manifest,
            }));
        }
        Err(error) => return Err(failed("open", error)),
    };
    let mut json = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut json)
        .map_err(|error| failed("read", error))?;
    if json.len() as u64 > MAX_BYTES {
        return Ok(Err(Defect::ManifestTooLarge { limit: MAX_BYTES }));
    }
    Ok(Ok(json))
}

/// Opens `name` in `directory` for reading; `None` if it is something else than a regular file.
/// Neither follows a link nor waits for the other end of a pipe.
pub(super) fn open_regular(directory: &File, name: &str) -> io::Result<Option<File>> {
    open_regular_as(directory, name, OFlags::RDONLY)
}

/// As [`open_regular`], with the access mode of `access`.
pub(super) fn open_regular_as(
    directory: &File,
    name: &str,
    access: OFlags,
) -> io::Result<Option<File>> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // A link; a socket or a pipe without a reader; a directory opened for writing.
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Bytes that the files of `directory` occupy on disk, holes not counted.
pub(super) fn disk_bytes(path: &Path) -> io::Result<u64> {
    /// Bytes per unit of `st_blocks`, whatever the file system's block size (stat(2)).
    const UNIT: u64 = 512;
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        match entry?.metadata() {
            Ok(metadata) => sum += metadata.blocks() * UNIT,
            // Deleted since: it occupies nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}
