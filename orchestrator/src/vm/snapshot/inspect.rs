//! What is in a snapshot's directory, judged without reading the large files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::error::SnapshotError;
use super::id::SnapshotId;
use super::lock::DirLock;
use super::manifest::{MAX_BYTES, Manifest, ManifestError};
use crate::mark::{self, Mark};

/// Name of the file with the guest's RAM.
pub(super) const MEMORY: &str = "memory";
/// Name of the file with the state of vCPUs and devices.
pub(super) const VMSTATE: &str = "vmstate";
/// Name of the file that describes the other two.
pub(super) const MANIFEST: &str = "manifest.json";

/// Why a directory with the name of a snapshot holds no usable one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// Nothing in it says that IronClaw made it.
    #[error("no snapshot that IronClaw made")]
    NotOurs,
    /// It is root's alone.
    #[error("this user may not read it")]
    NotReadable,
    /// A file is not there.
    #[error("{file} is missing")]
    Missing {
        /// Which one.
        file: &'static str,
    },
    /// A file is a link, a pipe, a device or a directory.
    #[error("{file} is not a regular file")]
    NotRegular {
        /// Which one.
        file: &'static str,
    },
    /// A file can't be opened.
    #[error("{file} can't be read: {reason}")]
    Unreadable {
        /// Which one.
        file: &'static str,
        /// What the operating system says.
        reason: String,
    },
    /// The directory was removed, or is another one, while the snapshot was used.
    #[error("its directory was removed or replaced")]
    Removed,
    /// The manifest is larger than manifests are.
    #[error("manifest.json has more than {limit} bytes")]
    ManifestTooLarge {
        /// Most bytes that are read.
        limit: u64,
    },
    /// The manifest is no manifest.
    #[error("manifest.json is not valid: {reason}")]
    ManifestInvalid {
        /// What is wrong, and where.
        reason: String,
    },
    /// The manifest belongs to another directory.
    #[error("manifest.json is that of snapshot {found}")]
    OtherId {
        /// The id in the manifest.
        found: SnapshotId,
    },
    /// The manifest has a format of another release. It may be sound for that one.
    #[error("manifest.json has format {found}, this release knows {known}", known = super::manifest::FORMAT)]
    OtherFormat {
        /// The format in the manifest.
        found: u32,
    },
    /// A file was cut or extended.
    #[error("{file} has {found} bytes, its manifest says {expected}")]
    WrongSize {
        /// Which one.
        file: &'static str,
        /// Size in the manifest, in bytes.
        expected: u64,
        /// Size found, in bytes.
        found: u64,
    },
}

impl Defect {
    /// Whether nobody can use the directory any more, so that a sweep may remove it.
    #[must_use]
    pub fn is_garbage(&self) -> bool {
        !matches!(
            self,
            Self::OtherFormat { .. } | Self::NotOurs | Self::NotReadable
        )
    }

    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::NotOurs => "it is left alone: remove it by hand if it is to go",
            Self::NotReadable => "let it read the directory and the files in it",
            Self::OtherFormat { .. } => "use the release that made it, or delete it",
            _ => "it is removed by the next sweep",
        }
    }
}

/// Result of [`read`]: the manifest or what is wrong, apart from an answer that could not be had.
pub(super) type Finding = Result<Manifest, Defect>;

/// Judges the open directory at `path` by its manifest and the sizes of its files.
pub(super) fn read(
    directory: &File,
    path: &Path,
    id: SnapshotId,
) -> Result<Finding, SnapshotError> {
    match content(directory, path, id)? {
        Err(_) if !is_ours(directory, path, id)? => Ok(Err(Defect::NotOurs)),
        finding => Ok(finding),
    }
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

fn content(directory: &File, path: &Path, id: SnapshotId) -> Result<Finding, SnapshotError> {
    let json = match read_manifest(directory, path)? {
        Ok(json) => json,
        Err(defect) => return Ok(Err(defect)),
    };
    let manifest = match Manifest::parse(&json) {
        Ok(manifest) => manifest,
        Err(ManifestError::OtherFormat(found)) => return Ok(Err(Defect::OtherFormat { found })),
        Err(ManifestError::Invalid(reason)) => return Ok(Err(Defect::ManifestInvalid { reason })),
    };
    if manifest.id != id {
        return Ok(Err(Defect::OtherId { found: manifest.id }));
    }
    let files = [
        (MEMORY, manifest.files.memory.bytes),
        (VMSTATE, manifest.files.vmstate.bytes),
    ];
    for (file, expected) in files {
        let stat = match statat(directory, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Err(Defect::Missing { file })),
            Err(errno) => return Err(SnapshotError::io("inspect", path.join(file), errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Err(Defect::NotRegular { file }));
        }
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != expected {
            return Ok(Err(Defect::WrongSize {
                file,
                expected,
                found,
            }));
        }
    }
    Ok(Ok(manifest))
}

/// Judges the snapshot whose directory was at `path` when it was locked, with its files opened.
pub(super) fn check(
    lock: &DirLock,
    path: &Path,
    id: SnapshotId,
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
    match read(lock.directory(), path, id) {
        Ok(Ok(_)) => {}
        Ok(Err(defect)) => return Ok(Err(defect)),
        Err(SnapshotError::Io { source, .. }) if !is_the_hosts(&source) => {
            let (file, reason) = (MANIFEST, source.to_string());
            return Ok(Err(Defect::Unreadable { file, reason }));
        }
        Err(error) => return Err(error),
    }
    for file in [MEMORY, VMSTATE] {
        match open_regular(lock.directory(), file) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Err(Defect::NotRegular { file })),
            Err(error) if is_the_hosts(&error) => {
                return Err(SnapshotError::io("open", path.join(file), error));
            }
            Err(error) => {
                let reason = error.to_string();
                return Ok(Err(Defect::Unreadable { file, reason }));
            }
        }
    }
    Ok(Ok(()))
}

/// Whether any other file could not be opened either.
fn is_the_hosts(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn read_manifest(directory: &File, path: &Path) -> Result<Result<Vec<u8>, Defect>, SnapshotError> {
    let failed = |operation, error| SnapshotError::io(operation, path.join(MANIFEST), error);
    let file = match open_regular(directory, MANIFEST) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Err(Defect::NotRegular { file: MANIFEST })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Defect::Missing { file: MANIFEST }));
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
