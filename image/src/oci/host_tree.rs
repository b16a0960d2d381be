//! A directory of the host as a root file system.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, major, minor};
use rustix::io::Errno;

use super::error::SourceError;
use crate::layer::Limits;
use crate::tree::{
    Children, Content, DeviceNumber, Extent, FileTree, Kind, Metadata, Mtime, Node, NodeId, Source,
    SourceId, Xattrs,
};

/// Limit of a file's extended attributes, their names and values each.
const MAX_XATTRS: usize = 64 << 10;

/// Makes a tree of all that is below a directory, as it is now. Does not follow links; names, owners,
/// devices and hard links are kept. Contents are read later.
pub(super) fn read(root: &Path, limits: &Limits) -> Result<FileTree, SourceError> {
    let mut walk = Walk {
        tree: FileTree::new(),
        limits,
        linked: std::collections::HashMap::new(),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Read { path, source }
    };
    let metadata = fs::metadata(root).map_err(failed(root))?;
    if !metadata.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(failed(root)(error));
    }
    let id = walk.tree.root();
    *walk.tree.metadata_mut(id) = of(root, &metadata).map_err(failed(root))?;
    let mut pending = vec![(root.to_owned(), id)];
    while let Some((directory, id)) = pending.pop() {
        for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
            let entry = entry.map_err(failed(&directory))?;
            let path = entry.path();
            let added = walk.add(id, &path, entry.file_name().as_bytes());
            if let Some(below) = added.map_err(failed(&path))? {
                pending.push((path, below));
            }
        }
    }
    Ok(walk.tree)
}

struct Walk<'a> {
    tree: FileTree,
    limits: &'a Limits,
    /// Files with several names, by device and number.
    linked: std::collections::HashMap<(u64, u64), NodeId>,
}

impl Walk<'_> {
    /// Adds what is at `path`; returns its node if it is a directory.
    fn add(&mut self, parent: NodeId, path: &Path, name: &[u8]) -> io::Result<Option<NodeId>> {
        if self.tree.len() >= self.limits.entries {
            let text = format!("there are more than {} files", self.limits.entries);
            return Err(io::Error::other(text));
        }
        let metadata = fs::symlink_metadata(path)?;
        let key = (metadata.dev(), metadata.ino());
        if !metadata.is_dir()
            && metadata.nlink() > 1
            && let Some(first) = self.linked.get(&key)
        {
            let linked = self.tree.link(parent, name, *first);
            return linked.map(|()| None).map_err(io::Error::other);
        }
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            Kind::Directory(Children::new())
        } else if kind.is_file() {
            Kind::File(self.content(path, &metadata)?)
        } else if kind.is_symlink() {
            Kind::Symlink(fs::read_link(path)?.as_os_str().as_bytes().into())
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if kind.is_socket() {
            Kind::Socket
        } else {
            let number = DeviceNumber::new(major(metadata.rdev()), minor(metadata.rdev()));
            let number = number.ok_or_else(|| io::Error::other("it has no device's number"))?;
            if kind.is_char_device() {
                Kind::CharDevice(number)
            } else {
                Kind::BlockDevice(number)
            }
        };
        let is_directory = metadata.is_dir();
        let node = Node {
            metadata: of(path, &metadata)?,
            kind,
        };
        let id = self.tree.insert(parent, name, node);
        let id = id.map_err(io::Error::other)?;
        if !is_directory && metadata.nlink() > 1 {
            self.linked.insert(key, id);
        }
        Ok(is_directory.then_some(id))
    }

    fn content(&mut self, path: &Path, metadata: &fs::Metadata) -> io::Result<Content> {
        /// Bytes per unit of `st_blocks`, independent of the file system's block size (stat(2)).
        const UNIT: u64 = 512;
        let size = metadata.size();
        let source = Source::at(PathBuf::from(path), metadata);
        let source = self.tree.add_source(source).map_err(io::Error::other)?;
        if metadata.blocks() * UNIT >= size {
            return Ok(Content::whole(source, 0, size));
        }
        let extents = extents(path, source, size)?;
        Content::sparse(size, extents).ok_or_else(|| io::Error::other("its holes make no sense"))
    }
}

/// Finds what is no hole.
fn extents(path: &Path, source: SourceId, size: u64) -> io::Result<Vec<Extent>> {
    let file: File = ironclaw_host::regular_file::open(path)?;
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(offset) if offset < size => offset,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(offset))?.min(size);
        extents.push(Extent {
            offset,
            length: end.saturating_sub(offset),
            source,
            position: offset,
        });
        at = end.max(offset + 1);
    }
    Ok(extents)
}

fn of(path: &Path, metadata: &fs::Metadata) -> io::Result<Metadata> {
    let xattrs = xattrs(path)?;
    Ok(Metadata {
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap_or_default(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Mtime {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
        },
        xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
    })
}

fn xattrs(path: &Path) -> io::Result<Xattrs> {
    let mut names = vec![0; MAX_XATTRS];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        // A file system without any.
        Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Xattrs::new();
    let names = names.get(..length).unwrap_or_default();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if !crate::erofs::keeps_xattr(name) {
            continue;
        }
        let mut value = vec![0; MAX_XATTRS];
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                xattrs.insert(name.into(), value.into());
            }
            // Removed meanwhile, or for root's eyes alone.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(xattrs)
}
