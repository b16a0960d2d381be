//! Records of the format on disk, as `fs/erofs/erofs_fs.h` of Linux has them. All numbers are little
//! endian.

use crate::tree::{DeviceNumber, Kind, Metadata};

/// Size of a block.
pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;
/// The same, for what is in memory.
pub(super) const BLOCK_SIZE: usize = 4096;
/// Size of a block as a power of two.
const BLOCK_BITS: u8 = 12;
/// Where the superblock begins.
pub(super) const SUPERBLOCK_OFFSET: u64 = 1024;
/// Where inodes may begin: multiples of it.
pub(super) const SLOT: u64 = 32;
/// Where the first inode begins: behind the superblock.
pub(super) const FIRST_SLOT: u64 = (SUPERBLOCK_OFFSET + SUPERBLOCK as u64) / SLOT;
/// The address of no block.
pub(super) const HOLE: u32 = u32::MAX;
/// Size of an extended inode.
pub(super) const INODE: u64 = INODE_SIZE as u64;
pub(super) const INODE_SIZE: usize = 64;

const SUPERBLOCK: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// `i_mtime` is the time of the last change of content.
const COMPAT_MTIME: u32 = 0x2;
/// There are files of chunks.
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
/// The name of the volume.
const VOLUME: &[u8; 8] = b"ironclaw";

/// How content is stored: in consecutive blocks.
pub(super) const FLAT: u16 = 0;
/// In consecutive blocks, and its end behind the inode.
pub(super) const INLINE: u16 = 2;
/// In chunks, some of them holes.
pub(super) const CHUNKED: u16 = 4;

/// Encodes the superblock.
pub(super) fn superblock(
    root: u32,
    inodes: u64,
    blocks: u64,
    has_chunks: bool,
) -> [u8; SUPERBLOCK] {
    let mut bytes = [0; SUPERBLOCK];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPAT_MTIME.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    // The root is the first inode, so its number is far below 2^16.
    put(14, &root.to_le_bytes()[..2]);
    put(16, &inodes.to_le_bytes());
    // The plan has no more blocks than fit.
    put(36, &blocks.to_le_bytes()[..4]);
    put(64, VOLUME);
    let incompat = if has_chunks { INCOMPAT_CHUNKED_FILE } else { 0 };
    put(80, &incompat.to_le_bytes());
    bytes
}

/// Returns whether a superblock is like those of [`superblock`].
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    let has = |at: usize, field: &[u8]| bytes.get(at..at + field.len()) == Some(field);
    let features = [0, INCOMPAT_CHUNKED_FILE];
    has(0, &MAGIC.to_le_bytes())
        && has(12, &[BLOCK_BITS])
        && has(64, VOLUME)
        && features.iter().any(|it| has(80, &it.to_le_bytes()))
}

/// An inode in its extended form.
pub(super) struct Inode<'a> {
    pub(super) layout: u16,
    pub(super) xattr_count: u16,
    /// The bits of `st_mode` that say what it is.
    pub(super) kind: u16,
    pub(super) metadata: &'a Metadata,
    pub(super) size: u64,
    /// The first block, the number of a device, or the format of chunks.
    pub(super) union: u32,
    pub(super) number: u32,
    pub(super) links: u32,
}

impl Inode<'_> {
    pub(super) fn encode(&self) -> [u8; INODE_SIZE] {
        /// Bit 0 of the format: 64 bytes, not 32.
        const EXTENDED: u16 = 1;
        let mut bytes = [0; INODE_SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &(EXTENDED | self.layout << 1).to_le_bytes());
        put(2, &self.xattr_count.to_le_bytes());
        put(4, &(self.kind | self.metadata.mode & 0o7777).to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.union.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.metadata.uid.to_le_bytes());
        put(28, &self.metadata.gid.to_le_bytes());
        put(32, &self.metadata.mtime.seconds.to_le_bytes());
        put(40, &self.metadata.mtime.nanoseconds.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        bytes
    }
}

/// Returns the bits of `st_mode` that say what a node is.
pub(super) fn kind(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice(_) => 0o020_000,
        Kind::Directory(_) => 0o040_000,
        Kind::BlockDevice(_) => 0o060_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Socket => 0o140_000,
    }
}

/// Returns what an entry of a directory says of a node's kind.
pub(super) fn entry_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice(_) => 3,
        Kind::BlockDevice(_) => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}

/// Encodes the number of a device (`new_encode_dev` of Linux).
pub(super) fn device(number: DeviceNumber) -> u32 {
    let DeviceNumber { major, minor } = number;
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}
