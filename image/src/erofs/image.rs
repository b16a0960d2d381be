//! The image, from its beginning to its end.

use std::io::Write;

use crate::tree::{Content, FileTree, Kind, NodeId, Reader};

use super::error::ErofsError;
use super::format::{self, BLOCK, BLOCK_SIZE, Inode};
use super::plan::{self, Layout, Place, Plan};
use super::{directory, xattrs};

/// Bytes that are read and written at a time.
const BUFFER: usize = 1 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The size of the image in bytes, a multiple of 4096.
    pub bytes: u64,
    /// The number of files, directories, links and devices in it.
    pub inodes: u64,
}

/// Writes the image of a tree. Takes memory by the number of files, not by their sizes.
///
/// # Errors
/// [`ErofsError`].
pub fn write(tree: &FileTree, out: &mut impl Write) -> Result<Written, ErofsError> {
    write_within(tree, out, u64::MAX)
}

/// Writes the image of a tree, unless it takes more than `limit` bytes: then nothing is written.
///
/// # Errors
/// [`ErofsError`].
pub fn write_within(
    tree: &FileTree,
    out: &mut impl Write,
    limit: u64,
) -> Result<Written, ErofsError> {
    let plan = Plan::new(tree)?;
    let bytes = plan.blocks() * BLOCK;
    if bytes > limit {
        return Err(ErofsError::OverLimit { bytes, limit });
    }
    let mut image = Image {
        tree,
        plan: &plan,
        reader: Reader::new(tree),
        out,
        at: 0,
        buffer: vec![0; BUFFER],
    };
    image.superblock()?;
    for id in plan.order() {
        image.inode(*id)?;
    }
    image.pad_to(plan.data_start())?;
    for id in plan.order() {
        image.data(*id)?;
    }
    image.pad_to(bytes)?;
    image.out.flush().map_err(ErofsError::Write)?;
    let inodes = plan.order().len() as u64;
    Ok(Written { bytes, inodes })
}

/// An image that is being written, from its beginning to its end.
struct Image<'a, W> {
    tree: &'a FileTree,
    plan: &'a Plan<'a>,
    reader: Reader<'a>,
    out: &'a mut W,
    /// The bytes that were written.
    at: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Image<'_, W> {
    fn superblock(&mut self) -> Result<(), ErofsError> {
        self.pad_to(format::SUPERBLOCK_OFFSET)?;
        let superblock = format::superblock(
            self.plan.place(self.tree.root()).slot,
            self.plan.order().len() as u64,
            self.plan.blocks(),
            self.plan.has_chunks(),
        );
        self.put(&superblock)
    }

    /// Writes an inode and all that is stored behind it.
    fn inode(&mut self, id: NodeId) -> Result<(), ErofsError> {
        let (node, place) = (self.tree.node(id), self.plan.place(id));
        let xattrs = xattrs::encode(&node.metadata);
        self.pad_to(place.offset())?;
        let inode = Inode {
            layout: place.layout.number(),
            xattr_count: xattrs::count(xattrs.len()).ok_or_else(|| self.too_many_xattrs(id))?,
            kind: format::kind(&node.kind),
            metadata: &node.metadata,
            size: self.plan.size(id),
            union: match (&node.kind, place.layout) {
                (Kind::CharDevice(number) | Kind::BlockDevice(number), _) => {
                    format::device(*number)
                }
                (_, Layout::Chunks { bits }) => u32::from(bits),
                _ => place.block,
            },
            number: place.slot,
            links: place.links,
        };
        self.put(&inode.encode())?;
        self.put(&xattrs)?;
        match (&node.kind, place.layout) {
            (Kind::File(content), Layout::Inline) => self.content(id, content, 0, content.size()),
            (Kind::Symlink(target), Layout::Inline) => self.put(target),
            (Kind::Directory(_), Layout::Inline) => {
                let blocks = self.entries(id);
                let tail = blocks.last().map_or(&[][..], Vec::as_slice);
                self.put(tail)
            }
            (Kind::File(content), Layout::Chunks { bits }) => {
                self.chunk_map(content, bits, place.block)
            }
            _ => Ok(()),
        }
    }

    /// Writes where the chunks of a file with holes are.
    fn chunk_map(&mut self, content: &Content, bits: u8, first: u32) -> Result<(), ErofsError> {
        let mut block = u64::from(first);
        for chunk in plan::chunks(content, bits) {
            let address = if chunk.has_data {
                let address = u32::try_from(block).map_err(|_| ErofsError::TooLarge)?;
                block += chunk.length.div_ceil(BLOCK);
                address
            } else {
                format::HOLE
            };
            self.put(&address.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes the whole blocks of a node.
    fn data(&mut self, id: NodeId) -> Result<(), ErofsError> {
        let Place { block, layout, .. } = *self.plan.place(id);
        if block == format::HOLE {
            return Ok(());
        }
        self.pad_to(u64::from(block) * BLOCK)?;
        match &self.tree.node(id).kind {
            Kind::File(content) => match layout {
                Layout::Chunks { bits } => {
                    for chunk in plan::chunks(content, bits).filter(|chunk| chunk.has_data) {
                        self.pad_to(self.at.next_multiple_of(BLOCK))?;
                        self.content(id, content, chunk.offset, chunk.length)?;
                    }
                    Ok(())
                }
                _ => self.content(id, content, 0, content.size()),
            },
            Kind::Symlink(target) => self.put(target),
            Kind::Directory(_) => {
                let mut blocks = self.entries(id);
                if layout == Layout::Inline {
                    blocks.pop();
                }
                for block in blocks {
                    self.pad_to(self.at.next_multiple_of(BLOCK))?;
                    self.put(&block)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Returns the blocks with the entries of a directory.
    fn entries(&self, id: NodeId) -> Vec<Vec<u8>> {
        let Some(children) = self.tree.children(id) else {
            return Vec::new();
        };
        let nid = |id: NodeId| u64::from(self.plan.place(id).slot);
        let parent = self.plan.place(id).parent;
        directory::blocks(children, (nid(id), nid(parent)), |child| {
            (nid(child), format::entry_type(&self.tree.node(child).kind))
        })
    }

    /// Copies `length` bytes of a file.
    fn content(
        &mut self,
        id: NodeId,
        content: &Content,
        offset: u64,
        length: u64,
    ) -> Result<(), ErofsError> {
        let mut done = 0;
        while done < length {
            let step = usize::try_from(length - done).unwrap_or(BUFFER).min(BUFFER);
            let mut buffer = std::mem::take(&mut self.buffer);
            let part = &mut buffer[..step];
            self.reader
                .read_at(content, offset + done, part)
                .map_err(|source| ErofsError::Read {
                    path: self.plan.path(id),
                    source,
                })?;
            self.put(part)?;
            self.buffer = buffer;
            done += step as u64;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.out.write_all(bytes).map_err(ErofsError::Write)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to a position.
    fn pad_to(&mut self, offset: u64) -> Result<(), ErofsError> {
        const ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];
        debug_assert!(self.at <= offset, "{} is behind {offset}", self.at);
        while self.at < offset {
            let step = usize::try_from(offset - self.at).unwrap_or(ZEROS.len());
            self.put(&ZEROS[..step.min(ZEROS.len())])?;
        }
        Ok(())
    }

    fn too_many_xattrs(&self, id: NodeId) -> ErofsError {
        let path = self.plan.path(id);
        ErofsError::Xattrs { path }
    }
}
