//! Where the content of files is.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use ironclaw_host::regular_file;

use super::id::SourceId;

/// A file on the host that content is read from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Source {
    /// One that is open, with the content of many files: a layer.
    Open(Arc<File>),
    /// One of many, opened when its content is read. It has to be then what it was.
    Path {
        /// Its path.
        path: PathBuf,
        /// Tells it from another one, and from itself once it was changed.
        stamp: Stamp,
    },
}

/// Tells a file from another one, and from itself once it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Source {
    /// A file that is opened when its content is read; `metadata` is what it has now.
    pub fn at(path: PathBuf, metadata: &std::fs::Metadata) -> Self {
        let stamp = Stamp::of(metadata);
        Self::Path { path, stamp }
    }

    pub(super) fn open(&self) -> io::Result<Arc<File>> {
        match self {
            Self::Open(file) => Ok(Arc::clone(file)),
            Self::Path { path, stamp } => {
                let about = |error: io::Error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                };
                let file = regular_file::open(path).map_err(about)?;
                if Stamp::of(&file.metadata().map_err(about)?) != *stamp {
                    return Err(about(io::Error::other("it was changed while it was read")));
                }
                Ok(Arc::new(file))
            }
        }
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Bytes of a file that are not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where they begin in the file.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
    /// The file on the host that has them.
    pub source: SourceId,
    /// Where they begin there.
    pub position: u64,
}

impl Extent {
    /// Returns where they end in the file.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// The content of a regular file: a size, and extents in order. What no extent covers is a hole,
/// which reads as zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    size: u64,
    extents: Extents,
}

/// Nearly all files have one extent at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Extents {
    #[default]
    None,
    One(Extent),
    Many(Box<[Extent]>),
}

impl Content {
    /// Creates the content of a file without holes: `size` bytes of `source` from `position` on.
    #[must_use]
    pub fn whole(source: SourceId, position: u64, size: u64) -> Self {
        let extent = Extent {
            offset: 0,
            length: size,
            source,
            position,
        };
        let extents = match size {
            0 => Extents::None,
            _ => Extents::One(extent),
        };
        Self { size, extents }
    }

    /// Creates the content of a file with holes; `None` unless the extents are in order, apart from
    /// each other, and within `size`.
    #[must_use]
    pub fn sparse(size: u64, mut extents: Vec<Extent>) -> Option<Self> {
        extents.retain(|extent| extent.length > 0);
        let mut end = 0;
        for extent in &extents {
            if extent.offset < end {
                return None;
            }
            end = extent.offset.checked_add(extent.length)?;
            extent.position.checked_add(extent.length)?;
        }
        let extents = match *extents {
            [] => Extents::None,
            [only] => Extents::One(only),
            _ => Extents::Many(extents.into()),
        };
        (end <= size).then_some(Self { size, extents })
    }

    /// Returns the size of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns what is not a hole.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        match &self.extents {
            Extents::None => &[],
            Extents::One(extent) => std::slice::from_ref(extent),
            Extents::Many(extents) => extents,
        }
    }

    /// Returns whether it has bytes that no extent covers.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        let data: u64 = self.extents().iter().map(|extent| extent.length).sum();
        data < self.size
    }

    /// Returns the extents that cover some of `length` bytes from `offset` on.
    pub fn overlapping(&self, offset: u64, length: u64) -> impl Iterator<Item = &Extent> {
        let extents = self.extents();
        let end = offset.saturating_add(length);
        let first = extents.partition_point(|extent| extent.end() <= offset);
        let rest = extents.get(first..).unwrap_or_default();
        rest.iter().take_while(move |extent| extent.offset < end)
    }
}
