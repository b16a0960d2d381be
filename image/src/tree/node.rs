//! One file, directory, link or device.

use std::collections::BTreeMap;

use super::content::Content;
use super::id::NodeId;

/// The name of an entry of a directory, or of an extended attribute: any bytes.
pub type Name = Box<[u8]>;

/// The entries of a directory, by name.
pub type Children = BTreeMap<Name, Child>;

/// Extended attributes by their full names, such as `security.capability`.
pub type Xattrs = BTreeMap<Name, Box<[u8]>>;

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Child {
    /// The node that it leads to. Several entries may lead to one: hard links.
    pub node: NodeId,
    /// The number of the layer that brought it: whiteouts hide what is from lower ones.
    pub(crate) layer: u32,
}

/// A file, directory, link or device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, time and extended attributes.
    pub metadata: Metadata,
    /// What it is.
    pub kind: Kind,
}

impl Node {
    /// Creates an empty directory.
    #[must_use]
    pub fn directory(metadata: Metadata) -> Self {
        Self {
            metadata,
            kind: Kind::Directory(Children::new()),
        }
    }
}

/// The kind of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory and its entries.
    Directory(Children),
    /// A regular file.
    File(Content),
    /// A symbolic link and its target: any bytes, nobody follows it on the host.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket that nobody listens at.
    Socket,
}

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// The driver, 12 bits.
    pub major: u32,
    /// The device, 20 bits.
    pub minor: u32,
}

impl DeviceNumber {
    /// Creates a number; `None` if Linux has none such.
    #[must_use]
    pub fn new(major: u32, minor: u32) -> Option<Self> {
        (major < 1 << 12 && minor < 1 << 20).then_some(Self { major, minor })
    }
}

/// What a node has beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The permissions with set-user-id, set-group-id and sticky bit: 12 bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change of its content.
    pub mtime: Mtime,
    /// The extended attributes; `None` is none. Few files have any.
    pub xattrs: Option<Box<Xattrs>>,
}

impl Metadata {
    /// What is root's, has this mode and no other attributes.
    #[must_use]
    pub fn of_mode(mode: u16) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Returns the extended attributes in the order of their names.
    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let xattrs = self.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        xattrs.map(|(name, value)| (&**name, &**value))
    }
}

/// A time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Seconds since 1970-01-01 00:00:00 UTC; may be negative.
    pub seconds: i64,
    /// Nanoseconds, less than a second.
    pub nanoseconds: u32,
}
