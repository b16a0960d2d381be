//! A file as it goes into an archive.

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use ironclaw_protocol::limits::MAX_ATTRIBUTES;
use rustix::fs::{Mode, OFlags, SeekFrom, getxattr, listxattr, openat, readlinkat, seek};
use rustix::io::Errno;

use super::entry::{Extent, Properties};

/// Attributes of overlays that are about them, and not about files.
pub(crate) const OVERLAYS_OWN: &[u8] = b"trusted.overlay.";

/// Limit of the extents that are told of one file; what is behind the last of them has no holes.
const MAX_EXTENTS: usize = 4096;

/// A file that was found, and is open if it has content.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) metadata: Metadata,
    pub(crate) properties: Properties,
    pub(crate) content: Content,
}

/// What is in it.
#[derive(Debug)]
pub(crate) enum Content {
    Directory,
    File(File),
    Link(Vec<u8>),
    /// A device or a named pipe.
    Special,
    /// A socket, which no archive holds.
    Socket,
}

/// Opens a name in a directory to look at it, whatever it is; a symbolic link is not followed.
pub(crate) fn peek(directory: impl AsFd, name: &CStr) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?.into())
}

impl Item {
    /// Reads everything about a name in a directory, and opens its content.
    pub(crate) fn read(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Self> {
        let found = peek(directory, name)?;
        let metadata = found.metadata()?;
        let kind = metadata.file_type();
        let content = if kind.is_dir() {
            Content::Directory
        } else if kind.is_symlink() {
            let target = readlinkat(&found, c"", Vec::new())?;
            Content::Link(target.into_bytes())
        } else if kind.is_file() {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(openat(directory, name, flags, Mode::empty())?);
            // Something else may have taken its name meanwhile.
            let opened = file.metadata()?;
            if (opened.dev(), opened.ino()) != (metadata.dev(), metadata.ino()) {
                return Err(Errno::STALE.into());
            }
            Content::File(file)
        } else if is_socket(&metadata) {
            Content::Socket
        } else {
            Content::Special
        };
        let properties = properties(&found, &metadata)?;
        Ok(Self {
            metadata,
            properties,
            content,
        })
    }
}

fn is_socket(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

/// Reads what an archive says of a file beside its content.
pub(crate) fn properties(found: &File, metadata: &Metadata) -> io::Result<Properties> {
    Ok(Properties {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        mtime_nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        attributes: attributes(found)?,
    })
}

/// Reads the extended attributes, sorted by name, but for those of overlays themselves.
fn attributes(found: &File) -> io::Result<Vec<(CString, Vec<u8>)>> {
    // A descriptor for looking has no other way to them.
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let names = match with_room(|buffer| listxattr(&*path, buffer)) {
        Ok(names) => names,
        // Its file system has none.
        Err(Errno::NOTSUP) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(OVERLAYS_OWN) {
            continue;
        }
        if let Some(value) = attribute(&path, name)? {
            attributes.push((CString::new(name)?, value));
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// Reads with as much room as most need, and with all that there may be if that is too little.
fn with_room(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut few = [0; 256];
    match read(&mut few) {
        Ok(length) => Ok(few[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut all = vec![0; MAX_ATTRIBUTES];
            let length = read(&mut all)?;
            all.truncate(length);
            Ok(all)
        }
        Err(error) => Err(error),
    }
}

fn attribute(path: &str, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match with_room(|buffer| getxattr(path, name, buffer)) {
        Ok(value) => Ok(Some(value)),
        // Removed meanwhile, or not for this user.
        Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a directory of an overlay's upper layer hides what the lower one has there.
pub(crate) fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let value = attribute(&path, b"trusted.overlay.opaque")?;
    Ok(value.is_some_and(|value| value == b"y"))
}

/// Finds the parts of a file that are no holes; `None` if it has no holes that are worth it.
pub(crate) fn extents(file: &File, metadata: &Metadata) -> Option<Vec<Extent>> {
    let size = metadata.size();
    if metadata.blocks().saturating_mul(512) >= size {
        return None;
    }
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // There is only a hole from here on.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(file, SeekFrom::Hole(begin)).ok()?.min(size);
        let end = if extents.len() + 1 == MAX_EXTENTS {
            size
        } else {
            end
        };
        if end <= begin {
            break;
        }
        extents.push(Extent {
            offset: begin,
            length: end - begin,
        });
        at = end;
    }
    let has_hole_at_end = extents
        .last()
        .is_none_or(|last: &Extent| last.offset + last.length < size);
    if has_hole_at_end {
        // As GNU's tar ends it.
        let (offset, length) = (size, 0);
        extents.push(Extent { offset, length });
    }
    let whole = Extent {
        offset: 0,
        length: size,
    };
    (extents != [whole]).then_some(extents)
}
