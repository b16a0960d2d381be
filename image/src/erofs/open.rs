//! Makes a tree of an image that this program wrote: a template's root, to go on from.
//!
//! Content is not read: it stays in the image, which the tree's files lead into.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use thiserror::Error;

use super::format::{
    self, BLOCK, BLOCK_SIZE, CHUNKED, FLAT, INLINE, INODE, INODE_SIZE, SLOT, SUPERBLOCK_OFFSET,
};
use super::xattrs;
use crate::tree::{
    Children, Content, DeviceNumber, Extent, FileTree, Kind, Metadata, Mtime, Node, NodeId, Source,
    SourceId, Xattrs,
};

/// Limit of the files of an image.
const MAX_FILES: usize = 4_000_000;
/// Limit of a directory, in bytes.
const MAX_DIRECTORY: u64 = 256 << 20;
/// Limit of the chunks of a file.
const MAX_CHUNKS: u64 = 64 << 20;

/// The reason why an image can't be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenImageError {
    /// It can't be read.
    #[error("can't read the image: {0}")]
    Read(#[from] io::Error),
    /// Another program made it, or it is damaged.
    #[error("the image is none that IronClaw made, or it is damaged: {0}")]
    Foreign(&'static str),
}

/// Makes a tree of the image in `file`.
///
/// # Errors
/// [`OpenImageError`].
pub fn open(file: &Arc<File>) -> Result<FileTree, OpenImageError> {
    let image = Image {
        file,
        size: file.metadata()?.len(),
    };
    let root = image.root()?;
    let mut tree = FileTree::new();
    let source = tree.add_source(Source::Open(Arc::clone(file)));
    let source = source.map_err(|_| OpenImageError::Foreign("it has too many files"))?;
    let inode = image.inode(root)?;
    let id = tree.root();
    *tree.metadata_mut(id) = image.metadata(&inode)?;
    // Files by their numbers in the image: hard links lead to one.
    let mut known: HashMap<u64, NodeId> = HashMap::from([(root, id)]);
    let mut pending = vec![(inode, id)];
    while let Some((inode, directory)) = pending.pop() {
        for (name, number) in image.entries(&inode, source)? {
            if let Some(node) = known.get(&number) {
                let linked = tree.link(directory, &name, *node);
                linked
                    .map_err(|_| OpenImageError::Foreign("an entry leads to a directory again"))?;
                continue;
            }
            if known.len() > MAX_FILES {
                return Err(OpenImageError::Foreign("it has too many files"));
            }
            let inode = image.inode(number)?;
            let node = Node {
                metadata: image.metadata(&inode)?,
                kind: image.kind(&inode, source)?,
            };
            let is_directory = matches!(node.kind, Kind::Directory(_));
            let node = tree.insert(directory, &name, node);
            let node = node.map_err(|_| OpenImageError::Foreign("a name in it is none"))?;
            known.insert(number, node);
            if is_directory {
                pending.push((inode, node));
            }
        }
    }
    Ok(tree)
}

struct Image<'a> {
    file: &'a File,
    size: u64,
}

/// An inode, and where it is.
struct Inode {
    bytes: [u8; INODE_SIZE],
    at: u64,
}

impl Inode {
    fn u16(&self, at: usize) -> u16 {
        u16_at(&self.bytes, at)
    }

    fn u32(&self, at: usize) -> u32 {
        u32_at(&self.bytes, at)
    }

    fn size(&self) -> u64 {
        u64_at(&self.bytes, 8)
    }

    fn layout(&self) -> u16 {
        self.u16(0) >> 1
    }

    fn xattrs_size(&self) -> u64 {
        xattrs::size_of_count(self.u16(2)) as u64
    }

    /// Where what follows its attributes begins.
    fn behind(&self) -> u64 {
        self.at + INODE + self.xattrs_size()
    }
}

impl Image<'_> {
    fn bytes(&self, at: u64, length: u64) -> Result<Vec<u8>, OpenImageError> {
        self.ensure(at, length)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn ensure(&self, at: u64, length: u64) -> Result<(), OpenImageError> {
        let end = at.checked_add(length).filter(|end| *end <= self.size);
        end.map(drop)
            .ok_or(OpenImageError::Foreign("it is cut off"))
    }

    fn root(&self) -> Result<u64, OpenImageError> {
        let head = self.bytes(SUPERBLOCK_OFFSET, 128)?;
        if !format::is_ours(&head) {
            return Err(OpenImageError::Foreign("it has another superblock"));
        }
        Ok(u16_at(&head, 14).into())
    }

    fn inode(&self, number: u64) -> Result<Inode, OpenImageError> {
        let at = number.checked_mul(SLOT);
        let at = at.ok_or(OpenImageError::Foreign("it is cut off"))?;
        let mut bytes = [0; INODE_SIZE];
        self.ensure(at, INODE)?;
        self.file.read_exact_at(&mut bytes, at)?;
        let inode = Inode { bytes, at };
        if inode.u16(0) & 1 == 0 {
            return Err(OpenImageError::Foreign("a file has a short inode"));
        }
        Ok(inode)
    }

    fn metadata(&self, inode: &Inode) -> Result<Metadata, OpenImageError> {
        let xattrs = match inode.xattrs_size() {
            0 => Xattrs::new(),
            size => {
                let bytes = self.bytes(inode.at + INODE, size)?;
                let bad = OpenImageError::Foreign("extended attributes make no sense");
                xattrs::decode(&bytes).ok_or(bad)?
            }
        };
        Ok(Metadata {
            mode: inode.u16(4) & 0o7777,
            uid: inode.u32(24),
            gid: inode.u32(28),
            mtime: Mtime {
                seconds: u64_at(&inode.bytes, 32).cast_signed(),
                nanoseconds: inode.u32(40),
            },
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
        })
    }

    fn kind(&self, inode: &Inode, source: SourceId) -> Result<Kind, OpenImageError> {
        let device = || {
            let number = inode.u32(16);
            let major = number >> 8 & 0xfff;
            let minor = number & 0xff | number >> 12 & !0xff;
            let bad = OpenImageError::Foreign("a device has no number");
            DeviceNumber::new(major, minor).ok_or(bad)
        };
        Ok(match inode.u16(4) >> 12 {
            0o01 => Kind::Fifo,
            0o02 => Kind::CharDevice(device()?),
            0o04 => Kind::Directory(Children::new()),
            0o06 => Kind::BlockDevice(device()?),
            0o10 => Kind::File(self.content(inode, source)?),
            0o12 => {
                let content = self.content(inode, source)?;
                Kind::Symlink(self.read(&content, BLOCK)?.into())
            }
            0o14 => Kind::Socket,
            _ => return Err(OpenImageError::Foreign("a file is of no kind")),
        })
    }

    /// Finds where in the image the content of a file, a link or a directory is.
    fn content(&self, inode: &Inode, source: SourceId) -> Result<Content, OpenImageError> {
        let (size, union) = (inode.size(), inode.u32(16));
        let bad = || OpenImageError::Foreign("the content of a file makes no sense");
        let first = u64::from(union) * BLOCK;
        let extent = |offset, length, position| Extent {
            offset,
            length,
            source,
            position,
        };
        let mut extents = Vec::new();
        match inode.layout() {
            FLAT => extents.push(extent(0, size, first)),
            INLINE => {
                let full = size / BLOCK * BLOCK;
                extents.push(extent(0, full, first));
                extents.push(extent(full, size - full, inode.behind()));
            }
            CHUNKED => {
                let chunk = BLOCK.checked_shl(union & 0x1f).ok_or_else(bad)?;
                let count = size.div_ceil(chunk);
                if count > MAX_CHUNKS {
                    return Err(bad());
                }
                let addresses = self.bytes(inode.behind(), count * 4)?;
                for (number, address) in (0..count).zip(addresses.chunks_exact(4)) {
                    let address = u32_at(address, 0);
                    if address != format::HOLE {
                        let offset = number * chunk;
                        let length = chunk.min(size - offset);
                        extents.push(extent(offset, length, u64::from(address) * BLOCK));
                    }
                }
            }
            _ => return Err(bad()),
        }
        extents.retain(|extent| extent.length > 0);
        for extent in &extents {
            self.ensure(extent.position, extent.length)?;
        }
        Content::sparse(size, merged(extents)).ok_or_else(bad)
    }

    fn read(&self, content: &Content, limit: u64) -> Result<Vec<u8>, OpenImageError> {
        if content.size() > limit {
            return Err(OpenImageError::Foreign("a directory or link is too long"));
        }
        let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or_default()];
        for extent in content.extents() {
            let at = usize::try_from(extent.offset).unwrap_or_default();
            let length = usize::try_from(extent.length).unwrap_or_default();
            if let Some(part) = bytes.get_mut(at..at + length) {
                self.file.read_exact_at(part, extent.position)?;
            }
        }
        Ok(bytes)
    }

    /// Returns the names in a directory, with the numbers of their files.
    fn entries(
        &self,
        inode: &Inode,
        source: SourceId,
    ) -> Result<Vec<(Vec<u8>, u64)>, OpenImageError> {
        let content = self.content(inode, source)?;
        let bytes = self.read(&content, MAX_DIRECTORY)?;
        let mut entries = Vec::new();
        for block in bytes.chunks(BLOCK_SIZE) {
            let read = block_entries(block, &mut entries);
            read.ok_or(OpenImageError::Foreign("a directory makes no sense"))?;
        }
        Ok(entries)
    }
}

/// Joins extents that continue each other.
fn merged(extents: Vec<Extent>) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::with_capacity(extents.len().min(16));
    for extent in extents {
        match merged.last_mut() {
            Some(last)
                if last.offset + last.length == extent.offset
                    && last.position + last.length == extent.position =>
            {
                last.length += extent.length;
            }
            _ => merged.push(extent),
        }
    }
    merged
}

/// Reads a block of a directory; leaves `.` and `..` out.
fn block_entries(block: &[u8], entries: &mut Vec<(Vec<u8>, u64)>) -> Option<()> {
    const ENTRY: usize = 12;
    let field = |at: usize, length: usize| block.get(at..at + length);
    let begin = |number: usize| Some(usize::from(u16_at(field(number * ENTRY + 8, 2)?, 0)));
    let count = begin(0)? / ENTRY;
    for number in 0..count {
        let name = begin(number)?;
        let end = match number + 1 {
            next if next < count => begin(next)?,
            _ => {
                let rest = block.get(name..)?;
                name + rest
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(rest.len())
            }
        };
        let name = block.get(name..end)?;
        if name != b"." && name != b".." {
            entries.push((name.to_vec(), u64_at(field(number * ENTRY, 8)?, 0)));
        }
    }
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..at + 2).and_then(|it| it.try_into().ok());
    u16::from_le_bytes(field.unwrap_or_default())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|it| it.try_into().ok());
    u32::from_le_bytes(field.unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + 8).and_then(|it| it.try_into().ok());
    u64::from_le_bytes(field.unwrap_or_default())
}
