//! Checks a snapshot's directory without reading the large files.

use std::fs::File;
use std::io;
use std::path::Path;

use ironclaw_store::file::{open_regular, read_bounded};
use ironclaw_store::{Artefact as _, DirLock, StoreError};
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::defect::{Defect, Part};
use super::error::SnapshotError;
use super::files::FileRole;
use super::kind::{DirName, MANIFEST};
use super::manifest::{MAX_BYTES, Manifest, ManifestError};

/// The result of [`read`]: the manifest or a defect. Failures to find out are errors apart from
/// that.
pub(super) type Finding = Result<Manifest, Defect>;

/// Checks the open directory at `path`, which has this name, by its manifest and the sizes of its
/// files.
pub(super) fn read(directory: &File, path: &Path, name: DirName) -> Result<Finding, SnapshotError> {
    let is_ours = || {
        let is_ours = name.is_ours(directory);
        is_ours.map_err(|error| SnapshotError::io("inspect", path, error))
    };
    let found = match manifest(directory, path, name)? {
        Ok(manifest) => content(directory, path, name, manifest)?,
        Err(defect) => Err(defect),
    };
    match found {
        Err(_) if !is_ours()? => Ok(Err(Defect::NotOurs)),
        found => Ok(found),
    }
}

/// Reads the manifest in the open directory at `path`, whatever its other files are; it may be of a
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

/// Checks the snapshot whose directory was at `path` when it was locked; opens its files.
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
        Err(SnapshotError::Store(StoreError::Io { source, .. })) if !is_the_hosts(&source) => {
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

/// Returns whether an error is of the host, and would affect any other file.
pub(super) fn is_the_hosts(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn read_manifest(directory: &File, path: &Path) -> Result<Result<Vec<u8>, Defect>, SnapshotError> {
    let file = Part::Manifest;
    let failed = |operation, error| SnapshotError::io(operation, path.join(MANIFEST), error);
    let opened = match open_regular(directory, MANIFEST) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Err(Defect::NotRegular { file })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Defect::Missing { file }));
        }
        Err(error) => return Err(failed("open", error)),
    };
    let json = read_bounded(opened, MAX_BYTES).map_err(|error| failed("read", error))?;
    Ok(json.ok_or(Defect::ManifestTooLarge { limit: MAX_BYTES }))
}
