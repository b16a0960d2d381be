//! Where everything goes, before anything is written.

use crate::tree::{Content, FileTree, Kind, NodeId, shown};

use super::error::ErofsError;
use super::format::{BLOCK, CHUNKED, FIRST_SLOT, FLAT, HOLE, INLINE, INODE, SLOT};
use super::{directory, xattrs};

/// Limit of the chunks of a file with holes: their map stays small, however large the file is.
const MAX_CHUNKS: u64 = 16 << 10;
/// Largest file: its holes take no room, and the format has chunks for it.
const MAX_FILE: u64 = 1 << 50;

/// How the content of an inode is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In consecutive blocks.
    Plain,
    /// In consecutive blocks, and behind the inode what does not fill one.
    Inline,
    /// In chunks of 2^(12 + bits) bytes, some of them holes.
    Chunks {
        /// The power of two of a chunk's blocks.
        bits: u8,
    },
}

impl Layout {
    /// Its number in the format.
    pub(super) fn number(self) -> u16 {
        match self {
            Self::Plain => FLAT,
            Self::Inline => INLINE,
            Self::Chunks { .. } => CHUNKED,
        }
    }
}

/// Where a node goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its inode, in units of 32 bytes.
    pub(super) slot: u32,
    /// Its first block of data; [`HOLE`] for none.
    pub(super) block: u32,
    /// The number of names that lead to it.
    pub(super) links: u32,
    /// The directory that was walked when it was found.
    pub(super) parent: NodeId,
    pub(super) layout: Layout,
}

impl Place {
    /// Returns where its inode begins.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.slot) * SLOT
    }
}

/// The places of all nodes.
pub(super) struct Plan<'a> {
    tree: &'a FileTree,
    /// In the order of their inodes.
    order: Vec<NodeId>,
    /// By the nodes' numbers; `None` for nodes that no name leads to.
    places: Vec<Option<Place>>,
    /// A place for numbers that no node has.
    nowhere: Place,
    data_start: u64,
    blocks: u64,
    has_chunks: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(tree: &'a FileTree) -> Result<Self, ErofsError> {
        let mut plan = Self {
            tree,
            order: Vec::new(),
            places: vec![None; tree.len()],
            nowhere: Place::of(tree.root()),
            data_start: 0,
            blocks: 0,
            has_chunks: false,
        };
        plan.walk();
        plan.place_inodes()?;
        plan.place_data()?;
        Ok(plan)
    }

    pub(super) fn order(&self) -> &[NodeId] {
        &self.order
    }

    pub(super) fn place(&self, id: NodeId) -> &Place {
        let place = self.places.get(id.index());
        place.and_then(Option::as_ref).unwrap_or(&self.nowhere)
    }

    /// Returns where data begins: behind the last inode.
    pub(super) fn data_start(&self) -> u64 {
        self.data_start
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn has_chunks(&self) -> bool {
        self.has_chunks
    }

    /// Returns the size of a node's content.
    pub(super) fn size(&self, id: NodeId) -> u64 {
        match &self.tree.node(id).kind {
            Kind::Directory(children) => directory::size(children),
            Kind::File(content) => content.size(),
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// Returns the path of a node, for a message.
    pub(super) fn path(&self, mut id: NodeId) -> String {
        let mut names = Vec::new();
        while id != self.tree.root() {
            let parent = self.place(id).parent;
            let mut entries = self.tree.children(parent).into_iter().flatten();
            let name = entries.find(|(_, child)| child.node == id);
            names.push(name.map_or(&[][..], |(name, _)| name));
            id = parent;
        }
        names.reverse();
        format!("/{}", shown(&names.join(&b'/')))
    }

    /// Numbers the nodes that names lead to: a directory, then its files, then what is below it.
    fn walk(&mut self) {
        let tree = self.tree;
        self.order.push(tree.root());
        self.places[tree.root().index()] = Some(Place {
            links: 2,
            ..Place::of(tree.root())
        });
        let mut directories = vec![tree.root()];
        while let Some(directory) = directories.pop() {
            let below = directories.len();
            for child in tree.children(directory).into_iter().flatten() {
                let id = child.1.node;
                if let Some(place) = &mut self.places[id.index()] {
                    place.links += 1;
                    continue;
                }
                let is_directory = tree.children(id).is_some();
                self.order.push(id);
                self.places[id.index()] = Some(Place {
                    links: if is_directory { 2 } else { 1 },
                    ..Place::of(directory)
                });
                if is_directory {
                    directories.push(id);
                    if let Some(parent) = &mut self.places[directory.index()] {
                        parent.links += 1;
                    }
                }
            }
            directories[below..].reverse();
        }
    }

    fn place_inodes(&mut self) -> Result<(), ErofsError> {
        let mut slot = FIRST_SLOT;
        for id in std::mem::take(&mut self.order) {
            let metadata = &self.tree.node(id).metadata;
            let xattrs = xattrs::size(metadata);
            if xattrs::count(xattrs).is_none() || !xattrs::fit(metadata) {
                let path = self.path(id);
                return Err(ErofsError::Xattrs { path });
            }
            if self.size(id) > MAX_FILE {
                return Err(ErofsError::TooLarge);
            }
            let head = INODE + xattrs as u64;
            let (layout, behind) = self.layout(id, head);
            let length = head + behind;
            // What is in one block is read at once, and the kernel takes it from there alone.
            let offset = slot * SLOT;
            if offset % BLOCK + length > BLOCK {
                slot = offset.next_multiple_of(BLOCK) / SLOT;
            }
            if let Some(place) = &mut self.places[id.index()] {
                place.slot = u32::try_from(slot).map_err(|_| ErofsError::TooLarge)?;
                place.layout = layout;
            }
            self.has_chunks |= matches!(layout, Layout::Chunks { .. });
            slot += length.div_ceil(SLOT);
            self.order.push(id);
        }
        self.data_start = (slot * SLOT).next_multiple_of(BLOCK);
        Ok(())
    }

    /// Returns how a node's content is stored, and the bytes of it behind the inode, which has `head`
    /// bytes with its attributes.
    fn layout(&self, id: NodeId, head: u64) -> (Layout, u64) {
        let size = self.size(id);
        let tail = size % BLOCK;
        let fits = tail > 0 && head + tail <= BLOCK;
        match &self.tree.node(id).kind {
            Kind::File(content) if content.has_holes() => {
                let bits = chunk_bits(size);
                let chunks = size.div_ceil(BLOCK << bits);
                (Layout::Chunks { bits }, chunks * 4)
            }
            // A larger one begins and ends with a page, so that it can be mapped.
            Kind::File(_) if size >= BLOCK => (Layout::Plain, 0),
            _ if fits => (Layout::Inline, tail),
            _ => (Layout::Plain, 0),
        }
    }

    fn place_data(&mut self) -> Result<(), ErofsError> {
        let mut block = self.data_start / BLOCK;
        for id in &self.order {
            let size = self.size(*id);
            let taken = match (&self.tree.node(*id).kind, self.place(*id).layout) {
                (Kind::File(content), Layout::Chunks { bits }) => {
                    let data = chunks(content, bits).filter(|chunk| chunk.has_data);
                    data.map(|chunk| chunk.length.div_ceil(BLOCK)).sum()
                }
                (_, Layout::Inline) => size / BLOCK,
                (_, _) => size.div_ceil(BLOCK),
            };
            if taken == 0 {
                continue;
            }
            if let Some(place) = &mut self.places[id.index()] {
                place.block = u32::try_from(block).map_err(|_| ErofsError::TooLarge)?;
            }
            block += taken;
        }
        if block >= u64::from(HOLE) {
            return Err(ErofsError::TooLarge);
        }
        self.blocks = block;
        Ok(())
    }
}

impl Place {
    fn of(parent: NodeId) -> Self {
        Self {
            slot: 0,
            block: HOLE,
            links: 0,
            parent,
            layout: Layout::Plain,
        }
    }
}

/// A part of a file with holes.
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) has_data: bool,
}

/// Returns the chunks of a file in order.
pub(super) fn chunks(content: &Content, bits: u8) -> impl Iterator<Item = Chunk> {
    let chunk = BLOCK << bits;
    let size = content.size();
    (0..size.div_ceil(chunk)).map(move |number| {
        let offset = number * chunk;
        let length = chunk.min(size - offset);
        Chunk {
            offset,
            length,
            has_data: content.overlapping(offset, length).next().is_some(),
        }
    })
}

/// Returns the smallest chunks, as a power of two of blocks, that a file of this size has few of.
fn chunk_bits(size: u64) -> u8 {
    let mut bits = 0;
    // At most 2^24 blocks: no file is larger than `MAX_FILE`.
    while size.div_ceil(BLOCK << bits) > MAX_CHUNKS {
        bits += 1;
    }
    bits
}
