//! Where the files of an image are: in a directory, or in an archive of one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_host::regular_file;

use super::error::SourceError;
use crate::layer::{Limits, Merge};
use crate::tree::{Content, FileTree, Kind, Reader};

/// Limit of the files in an archive of an image: some for each layer.
const MAX_FILES: usize = 20_000;

/// The files of an image.
pub(super) enum Place {
    /// Below a directory.
    Directory(PathBuf),
    /// In a tar archive, which is not unpacked.
    Archive { path: PathBuf, files: FileTree },
}

impl Place {
    /// Opens a tar archive.
    pub(super) fn archive(path: &Path) -> Result<Self, SourceError> {
        let read = |source| SourceError::Read {
            path: path.to_owned(),
            source,
        };
        let file = regular_file::open(path).map_err(read)?;
        let limits = Limits {
            entries: MAX_FILES,
            // A layer in it is a file.
            file: u64::MAX,
            ..Limits::default()
        };
        let mut merge = Merge::new(limits);
        let name = path.display().to_string();
        merge.apply(&name, Arc::new(file))?;
        Ok(Self::Archive {
            path: path.to_owned(),
            files: merge.into_tree(),
        })
    }

    /// Returns the source's path.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    /// Opens a file by its path in the image, which is relative.
    pub(super) fn open(&self, name: &str) -> Result<Box<dyn Read + '_>, SourceError> {
        let failed = |source| SourceError::Read {
            path: self.path().join(name),
            source,
        };
        match self {
            Self::Directory(path) => {
                let file: File = regular_file::open(&path.join(name)).map_err(failed)?;
                Ok(Box::new(file))
            }
            Self::Archive { files, .. } => {
                let found = files.resolve(name.as_bytes());
                let missing = |_| failed(io::ErrorKind::NotFound.into());
                match &files.node(found.map_err(missing)?).kind {
                    Kind::File(content) => Ok(Box::new(InArchive {
                        reader: Reader::new(files),
                        content,
                        at: 0,
                    })),
                    _ => Err(failed(io::Error::other("it is no file"))),
                }
            }
        }
    }
}

/// Reads a file of an archive.
struct InArchive<'a> {
    reader: Reader<'a>,
    content: &'a Content,
    at: u64,
}

impl Read for InArchive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.size() - self.at;
        let length = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..length) else {
            return Ok(0);
        };
        self.reader.read_at(self.content, self.at, buffer)?;
        self.at += length as u64;
        Ok(length)
    }
}
