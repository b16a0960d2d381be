//! Writes a file tree as a reproducible "newc" cpio archive, Linux's format of an initramfs.

use std::collections::BTreeMap;
use std::io;
#[cfg(feature = "oci")]
use std::{fs::File, io::Write as _, sync::Arc};

use cpio::newc::{Builder, ModeFileType, trailer};
#[cfg(feature = "oci")]
use rustix::fs::{MemfdFlags, memfd_create};

#[cfg(feature = "oci")]
use crate::tree::{Children, Content, DeviceNumber, FileTree, Kind, Metadata, Source};

/// A file tree in which everything belongs to root and dates from 1970.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    /// Nodes by path, without a leading slash. A parent sorts before its entries.
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Symlink { target: String },
    CharDevice { mode: u32, major: u32, minor: u32 },
}

/// The mode of directories that are added implicitly, as parents.
const DIRECTORY: u32 = 0o755;

impl Tree {
    /// Adds a directory, or sets the mode of an existing one.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.add(path, Node::Directory { mode });
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.add(
            path,
            Node::File {
                mode,
                bytes: bytes.into(),
            },
        );
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.add(
            path,
            Node::Symlink {
                target: target.to_owned(),
            },
        );
    }

    pub(super) fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.add(path, Node::CharDevice { mode, major, minor });
    }

    pub(super) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    fn add(&mut self, path: &str, node: Node) {
        for (slash, _) in path.match_indices('/') {
            let parent = path[..slash].to_owned();
            self.nodes
                .entry(parent)
                .or_insert(Node::Directory { mode: DIRECTORY });
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Makes a tree of files for an image. Their content is in a file in memory.
    ///
    /// # Errors
    /// If there is no memory, or too many files.
    #[cfg(feature = "oci")]
    pub(super) fn to_file_tree(&self) -> io::Result<FileTree> {
        let mut tree = FileTree::new();
        let mut file = File::from(memfd_create("files", MemfdFlags::CLOEXEC)?);
        let mut position = 0;
        for node in self.nodes.values() {
            if let Node::File { bytes, .. } = node {
                file.write_all(bytes)?;
            }
        }
        let source = tree.add_source(Source::Open(Arc::new(file)));
        let source = source.map_err(io::Error::other)?;
        for (path, node) in &self.nodes {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            // Parents sort before their entries.
            let parent = tree.resolve(parent.as_bytes()).map_err(io::Error::other)?;
            let (mode, kind) = match node {
                Node::Directory { mode } => (*mode, Kind::Directory(Children::new())),
                Node::File { mode, bytes } => {
                    let content = Content::whole(source, position, bytes.len() as u64);
                    position += bytes.len() as u64;
                    (*mode, Kind::File(content))
                }
                Node::Symlink { target } => (0o777, Kind::Symlink(target.as_bytes().into())),
                Node::CharDevice { mode, major, minor } => {
                    let number = DeviceNumber::new(*major, *minor);
                    let number = number.ok_or_else(|| io::Error::other("no device"))?;
                    (*mode, Kind::CharDevice(number))
                }
            };
            let metadata = Metadata::of_mode((mode & 0o7777) as u16);
            let node = crate::tree::Node { metadata, kind };
            let inserted = tree.insert(parent, name.as_bytes(), node);
            inserted.map_err(io::Error::other)?;
        }
        Ok(tree)
    }

    /// Writes the archive; the same tree gives the same bytes.
    ///
    /// # Errors
    /// If a file or the number of files does not fit into the format's 32 bits.
    pub(super) fn to_cpio(&self) -> io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (inode, (path, node)) in (1_u32..).zip(&self.nodes) {
            let entry = Builder::new(path)
                .ino(inode)
                .mtime(0)
                .uid(0)
                .gid(0)
                .nlink(1);
            let (entry, bytes) = match node {
                Node::Directory { mode } => {
                    let entry = entry.mode(*mode).nlink(2);
                    (
                        entry.set_mode_file_type(ModeFileType::Directory),
                        [].as_slice(),
                    )
                }
                Node::File { mode, bytes } => {
                    let entry = entry.mode(*mode).set_mode_file_type(ModeFileType::Regular);
                    (entry, bytes.as_slice())
                }
                Node::Symlink { target } => {
                    let entry = entry.mode(0o777).set_mode_file_type(ModeFileType::Symlink);
                    (entry, target.as_bytes())
                }
                Node::CharDevice { mode, major, minor } => {
                    let entry = entry.mode(*mode).rdev_major(*major).rdev_minor(*minor);
                    (entry.set_mode_file_type(ModeFileType::Char), [].as_slice())
                }
            };
            let length = u32::try_from(bytes.len())
                .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, path.clone()))?;
            let mut writer = entry.write(&mut archive, length);
            io::Write::write_all(&mut writer, bytes)?;
            writer.finish()?;
        }
        trailer(&mut archive)?;
        Ok(archive)
    }
}

#[cfg(test)]
mod tests;
