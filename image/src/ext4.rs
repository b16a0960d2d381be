//! Formats the disk that takes what a guest writes over its root: an empty ext4 file system.
//!
//! A sparse file of any size gets some 60 KiB of data, because descriptors with a checksum may say of
//! a group that nothing in it was ever used (`GDT_CSUM`, `BLOCK_UNINIT`, `INODE_UNINIT`): the kernel
//! makes up its bitmaps. There is no journal, which protects a file system from a crash that this
//! one does not survive anyway, nor copies of the superblock. No program of the host is asked, and no
//! guest.
//!
//! ```text
//! group 0   superblock, descriptors, two bitmaps, inodes, /, /lost+found
//! others                             two bitmaps, inodes
//! ```
//!
//! The format is that of the kernel's Documentation/filesystems/ext4.

#![expect(
    clippy::cast_possible_truncation,
    reason = "no number of a file system with so few groups is larger"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

const BLOCK: u64 = 4096;
/// As many as a bitmap of one block has bits.
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
/// One for each 16 KiB, as mke2fs has it.
const INODES_PER_GROUP: u64 = 8192;
const INODE_BYTES: u64 = 256;
const TABLE_BLOCKS: u64 = INODES_PER_GROUP * INODE_BYTES / BLOCK;
/// Blocks of a group beside its inodes: the two bitmaps.
const BITMAPS: u64 = 2;
const DESCRIPTOR_BYTES: u64 = 32;
/// Limit of a file system's groups: 256 GiB.
const MAX_GROUPS: u64 = 2048;
/// Blocks that a last group must have beside its own, to be worth it.
const MIN_LAST_GROUP: u64 = 64;

const ROOT: u64 = 2;
/// The first inode that is not reserved.
const LOST_AND_FOUND: u64 = 11;

const MAGIC: u16 = 0xef53;
const CLEAN: u16 = 1;
/// What the kernel does about a damaged file system: the guest ends, and its console says why.
const PANIC: u16 = 3;
/// EXT_ATTR, DIR_INDEX, SPARSE_SUPER2.
const COMPATIBLE: u32 = 0x8 | 0x20 | 0x200;
/// FILETYPE, EXTENTS.
const INCOMPATIBLE: u32 = 0x2 | 0x40;
/// LARGE_FILE, HUGE_FILE, GDT_CSUM, DIR_NLINK, EXTRA_ISIZE.
const READ_ONLY_COMPATIBLE: u32 = 0x2 | 0x8 | 0x10 | 0x20 | 0x40;
/// XATTR_USER, ACL.
const MOUNT_OPTIONS: u32 = 0x4 | 0x8;
const SIGNED_HASH: u32 = 1;
const HALF_MD4: u8 = 1;
const EXTRA_INODE_BYTES: u16 = 32;

/// The same for all: it tells no two file systems of a guest apart, since it has one.
const UUID: [u8; 16] = *b"ironclaw scratch";

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
const INODE_ZEROED: u16 = 4;

const EXTENTS_FLAG: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;
const DIRECTORY: u16 = 0o040_000;
const DIRECTORY_TYPE: u8 = 2;

/// Formats the empty file `disk`, which gets a size of `bytes`.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for less than 4 MiB or more than 256 GiB; as for `write(2)`.
pub fn format_ext4(disk: &File, bytes: u64) -> io::Result<()> {
    let layout = Layout::new(bytes).ok_or_else(|| {
        let text = format!("a disk has 4 MiB to 256 GiB, not {bytes} bytes");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    disk.set_len(bytes)?;
    let write = |block: u64, content: &[u8]| disk.write_all_at(content, block * BLOCK);
    disk.write_all_at(&layout.superblock(), 1024)?;
    write(1, &layout.descriptors())?;
    for group in layout.initialized() {
        write(layout.block_bitmap(group), &layout.blocks_in_use(group))?;
    }
    write(layout.inode_bitmap(0), &inodes_in_use())?;
    let [root, lost] = layout.directories();
    let mut inodes = vec![0; BLOCK as usize];
    put_inode(&mut inodes, ROOT, 0o755, 3, root);
    put_inode(&mut inodes, LOST_AND_FOUND, 0o700, 2, lost);
    write(layout.inode_table(0), &inodes)?;
    let entries = [(ROOT, "."), (ROOT, ".."), (LOST_AND_FOUND, "lost+found")];
    write(root, &directory(&entries))?;
    write(lost, &directory(&[(LOST_AND_FOUND, "."), (ROOT, "..")]))
}

/// Where everything is, in blocks.
#[derive(Debug)]
struct Layout {
    blocks: u64,
    groups: u64,
    descriptor_blocks: u64,
}

impl Layout {
    /// Lays a file system of so many bytes out; `None` if there is no room for one, or if it is too large.
    fn new(bytes: u64) -> Option<Self> {
        let mut blocks = bytes / BLOCK;
        let last = blocks % BLOCKS_PER_GROUP;
        if blocks > BLOCKS_PER_GROUP && last < BITMAPS + TABLE_BLOCKS + MIN_LAST_GROUP {
            blocks -= last;
        }
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let descriptor_blocks = (groups * DESCRIPTOR_BYTES).div_ceil(BLOCK);
        let layout = Self {
            blocks,
            groups,
            descriptor_blocks,
        };
        let fits = groups <= MAX_GROUPS && blocks >= layout.own_blocks(0) + MIN_LAST_GROUP;
        fits.then_some(layout)
    }

    /// Returns the groups whose block bitmaps are written: the first, and the last, which may be shorter.
    fn initialized(&self) -> Vec<u64> {
        let mut groups = vec![0, self.groups - 1];
        groups.dedup();
        groups
    }

    fn blocks_of(&self, group: u64) -> Range<u64> {
        let start = group * BLOCKS_PER_GROUP;
        start..(start + BLOCKS_PER_GROUP).min(self.blocks)
    }

    fn block_bitmap(&self, group: u64) -> u64 {
        let before = if group == 0 {
            1 + self.descriptor_blocks
        } else {
            0
        };
        group * BLOCKS_PER_GROUP + before
    }

    fn inode_bitmap(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 1
    }

    fn inode_table(&self, group: u64) -> u64 {
        self.block_bitmap(group) + BITMAPS
    }

    /// Returns the blocks of the two directories.
    fn directories(&self) -> [u64; 2] {
        let first = self.inode_table(0) + TABLE_BLOCKS;
        [first, first + 1]
    }

    /// Returns how many blocks at the start of a group are in use.
    fn own_blocks(&self, group: u64) -> u64 {
        let directories = if group == 0 { 2 } else { 0 };
        self.inode_table(group) + TABLE_BLOCKS + directories - group * BLOCKS_PER_GROUP
    }

    fn free_blocks(&self, group: u64) -> u64 {
        let blocks = self.blocks_of(group);
        blocks.end - blocks.start - self.own_blocks(group)
    }

    fn blocks_in_use(&self, group: u64) -> Vec<u8> {
        let blocks = self.blocks_of(group);
        let mut bitmap = vec![0; BLOCK as usize];
        set_bits(&mut bitmap, 0..self.own_blocks(group));
        // There are no blocks behind the end.
        set_bits(&mut bitmap, blocks.end - blocks.start..BLOCKS_PER_GROUP);
        bitmap
    }

    fn superblock(&self) -> Vec<u8> {
        let mut block = vec![0; 1024];
        let mut put = Put(&mut block);
        let free: u64 = (0..self.groups).map(|group| self.free_blocks(group)).sum();
        let inodes = self.groups * INODES_PER_GROUP;
        put.u32(0x00, inodes);
        put.u32(0x04, self.blocks);
        put.u32(0x0c, free);
        put.u32(0x10, inodes - LOST_AND_FOUND);
        // log2 of the size of a block, and of a cluster, in KiB.
        put.u32(0x18, 2);
        put.u32(0x1c, 2);
        put.u32(0x20, BLOCKS_PER_GROUP);
        put.u32(0x24, BLOCKS_PER_GROUP);
        put.u32(0x28, INODES_PER_GROUP);
        // Never checked because of the number of mounts.
        put.u16(0x36, u16::MAX);
        put.u16(0x38, MAGIC);
        put.u16(0x3a, CLEAN);
        put.u16(0x3c, PANIC);
        // The revision with inodes of any size.
        put.u32(0x4c, 1);
        put.u32(0x54, LOST_AND_FOUND);
        put.u16(0x58, INODE_BYTES as u16);
        put.u32(0x5c, COMPATIBLE.into());
        put.u32(0x60, INCOMPATIBLE.into());
        put.u32(0x64, READ_ONLY_COMPATIBLE.into());
        put.bytes(0x68, &UUID);
        put.bytes(0x78, b"scratch");
        put.bytes(0xec, &UUID);
        put.bytes(0xfc, &[HALF_MD4]);
        put.u32(0x100, MOUNT_OPTIONS.into());
        put.u16(0x15c, EXTRA_INODE_BYTES);
        put.u16(0x15e, EXTRA_INODE_BYTES);
        put.u32(0x160, SIGNED_HASH.into());
        block
    }

    fn descriptors(&self) -> Vec<u8> {
        let initialized = self.initialized();
        let mut all = Vec::new();
        for group in 0..self.groups {
            let (used, directories) = if group == 0 {
                (LOST_AND_FOUND, 2)
            } else {
                (0, 0)
            };
            let mut flags = INODE_ZEROED;
            if used == 0 {
                flags |= INODE_UNINIT;
            }
            if !initialized.contains(&group) {
                flags |= BLOCK_UNINIT;
            }
            let mut descriptor = vec![0; DESCRIPTOR_BYTES as usize];
            let mut put = Put(&mut descriptor);
            put.u32(0x00, self.block_bitmap(group));
            put.u32(0x04, self.inode_bitmap(group));
            put.u32(0x08, self.inode_table(group));
            put.u16(0x0c, self.free_blocks(group) as u16);
            put.u16(0x0e, (INODES_PER_GROUP - used) as u16);
            put.u16(0x10, directories);
            put.u16(0x12, flags);
            put.u16(0x1c, (INODES_PER_GROUP - used) as u16);
            let number = (group as u32).to_le_bytes();
            let checked = [&UUID[..], &number, &descriptor[..0x1e]].concat();
            Put(&mut descriptor).u16(0x1e, crc16(&checked));
            all.extend(descriptor);
        }
        all
    }
}

fn inodes_in_use() -> Vec<u8> {
    let mut bitmap = vec![0; BLOCK as usize];
    set_bits(&mut bitmap, 0..LOST_AND_FOUND);
    set_bits(&mut bitmap, INODES_PER_GROUP..8 * BLOCK);
    bitmap
}

fn put_inode(table: &mut [u8], number: u64, mode: u16, links: u16, block: u64) {
    let at = ((number - 1) * INODE_BYTES) as usize;
    let mut put = Put(&mut table[at..at + INODE_BYTES as usize]);
    put.u16(0x00, DIRECTORY | mode);
    put.u32(0x04, BLOCK);
    put.u16(0x1a, links);
    // In units of 512 bytes.
    put.u32(0x1c, BLOCK / 512);
    put.u32(0x20, EXTENTS_FLAG.into());
    // One extent, of one block, in a header with room for four.
    put.u16(0x28, EXTENT_MAGIC);
    put.u16(0x2a, 1);
    put.u16(0x2c, 4);
    put.u16(0x38, 1);
    put.u32(0x3c, block);
    put.u16(0x80, EXTRA_INODE_BYTES);
}

/// Returns the block of a directory with these directories.
fn directory(entries: &[(u64, &str)]) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    for (index, (inode, name)) in entries.iter().enumerate() {
        let is_last = index + 1 == entries.len();
        let length = if is_last {
            BLOCK as usize - at
        } else {
            (8 + name.len()).next_multiple_of(4)
        };
        let mut put = Put(&mut block[at..]);
        put.u32(0, *inode);
        put.u16(4, length as u16);
        put.bytes(6, &[name.len() as u8, DIRECTORY_TYPE]);
        put.bytes(8, name.as_bytes());
        at += length;
    }
    block
}

fn set_bits(bitmap: &mut [u8], bits: Range<u64>) {
    for bit in bits {
        bitmap[(bit / 8) as usize] |= 1 << (bit % 8);
    }
}

/// Returns the checksum of a descriptor: CRC-16 with the reflected polynomial 0x8005.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(u16::MAX, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xa001
            } else {
                crc >> 1
            }
        })
    })
}

/// Puts numbers into a structure of the disk, which is little-endian.
struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    /// No number of a file system of at most [`MAX_GROUPS`] is larger.
    fn u32(&mut self, at: usize, value: u64) {
        self.bytes(at, &(value as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn any_size_is_a_sparse_file_system_that_e2fsck_finds_nothing_wrong_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        // One group, an even number, a last one that is too short, one that is not, and the most.
        for mib in [4, 16, 128, 129, 131, 192, 1024, 4096, 256 << 10] {
            let disk = File::create(&path).unwrap();
            format_ext4(&disk, mib * MIB).unwrap();
            let facts = disk.metadata().unwrap();
            assert_eq!(facts.len(), mib * MIB);
            let most = if mib > 4096 { 256 } else { 64 };
            assert!(
                facts.blocks() * 512 <= most << 10,
                "{mib}: {}",
                facts.blocks()
            );
            // Another judge, where it is installed.
            match Command::new("e2fsck")
                .args(["-f", "-n"])
                .arg(&path)
                .output()
            {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                checked => {
                    let checked = checked.unwrap();
                    assert!(checked.status.success(), "{mib}: {checked:?}");
                }
            }
        }
    }

    #[test]
    fn a_size_that_no_file_system_can_have_is_refused() {
        let disk = tempfile::tempfile().unwrap();
        for bytes in [0, MIB, (256 << 30) + 200 * MIB] {
            let error = format_ext4(&disk, bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(disk.metadata().unwrap().len(), 0, "{bytes}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_kernel() {
        // The check value of CRC-16/MODBUS, which starts as ext4 does.
        assert_eq!(crc16(b"123456789"), 0x4b37);
    }
}
