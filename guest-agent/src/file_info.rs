//! The properties of a file, for a host.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use ironclaw_protocol::file::{FileInfo, FileKind, FileTime};

use crate::account::Names;

/// Looks at a file, and through it if it is a symbolic link to be followed.
pub(crate) fn look(path: &Path, follow: bool, names: &Names) -> io::Result<FileInfo> {
    let found = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    describe(path, &found?, names)
}

/// Tells what was found.
pub(crate) fn describe(path: &Path, found: &Metadata, names: &Names) -> io::Result<FileInfo> {
    let kind = kind(found.file_type());
    let target = match kind {
        FileKind::Link => Some(fs::read_link(path)?.as_os_str().as_bytes().into()),
        _ => None,
    };
    Ok(FileInfo {
        path: path.as_os_str().as_bytes().into(),
        kind,
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        owner: names.user(found.uid()),
        group: names.group(found.gid()),
        size: found.size(),
        modified: FileTime {
            seconds: found.mtime(),
            nanos: u32::try_from(found.mtime_nsec()).unwrap_or(0),
        },
        target,
    })
}

/// Tells what a file is.
pub(crate) fn kind(of: FileType) -> FileKind {
    if of.is_dir() {
        FileKind::Directory
    } else if of.is_symlink() {
        FileKind::Link
    } else if of.is_fifo() {
        FileKind::Fifo
    } else if of.is_socket() {
        FileKind::Socket
    } else if of.is_char_device() {
        FileKind::CharacterDevice
    } else if of.is_block_device() {
        FileKind::BlockDevice
    } else {
        FileKind::File
    }
}
