//! Reads images back, for tests: after the format's description, and with nothing of the writer.

use std::collections::BTreeMap;

use crate::tree::{FileTree, Kind, NodeId, Reader};

/// What a file is, in whatever way it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRead {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) device: u32,
    /// The content, the target of a link; of a directory nothing.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path that leads to the same file.
    pub(crate) same_as: Vec<u8>,
}

/// All files by their paths.
pub(crate) type Entries = BTreeMap<Vec<u8>, FileRead>;

/// What an image of `tree` should hold.
pub(crate) fn expected(tree: &FileTree) -> Entries {
    let mut entries = Entries::new();
    let mut firsts: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
    let mut ids: BTreeMap<Vec<u8>, NodeId> = BTreeMap::new();
    let mut pending = vec![(Vec::new(), tree.root())];
    let mut links: BTreeMap<NodeId, u32> = BTreeMap::new();
    while let Some((path, id)) = pending.pop() {
        let node = tree.node(id);
        *links.entry(id).or_default() += 1;
        let (kind, device, content) = match &node.kind {
            Kind::Directory(children) => {
                let below = children
                    .values()
                    .filter(|it| tree.children(it.node).is_some());
                *links.entry(id).or_default() += 1 + u32::try_from(below.count()).unwrap();
                for (name, child) in children {
                    pending.push(([&path[..], b"/", name].concat(), child.node));
                }
                (0o040_000, 0, Vec::new())
            }
            Kind::File(content) => {
                let mut bytes = vec![0; usize::try_from(content.size()).unwrap()];
                Reader::new(tree).read_at(content, 0, &mut bytes).unwrap();
                (0o100_000, 0, bytes)
            }
            Kind::Symlink(target) => (0o120_000, 0, target.to_vec()),
            Kind::CharDevice(number) => (0o020_000, super::format::device(*number), Vec::new()),
            Kind::BlockDevice(number) => (0o060_000, super::format::device(*number), Vec::new()),
            Kind::Fifo => (0o010_000, 0, Vec::new()),
            Kind::Socket => (0o140_000, 0, Vec::new()),
        };
        let kept = node
            .metadata
            .xattrs()
            .filter(|(name, _)| super::keeps_xattr(name));
        let first = firsts.entry(id).or_insert_with(|| path.clone());
        *first = first.clone().min(path.clone());
        let entry = FileRead {
            mode: kind | node.metadata.mode,
            uid: node.metadata.uid,
            gid: node.metadata.gid,
            mtime: (node.metadata.mtime.seconds, node.metadata.mtime.nanoseconds),
            links: 0,
            device,
            content,
            xattrs: kept
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect(),
            same_as: Vec::new(),
        };
        ids.insert(path.clone(), id);
        entries.insert(path, entry);
    }
    for (path, entry) in &mut entries {
        let id = &ids[path];
        entry.same_as = firsts[id].clone();
        entry.links = links[id];
    }
    entries
}

/// Reads an image.
pub(crate) fn read(image: &[u8]) -> Entries {
    assert_eq!(u32_at(image, 1024), 0xe0f5_e1e2);
    assert_eq!(image[1024 + 12], 12);
    assert_eq!(
        image.len() as u64,
        u64::from(u32_at(image, 1024 + 36)) * 4096
    );
    let root = u64::from(u16_at(image, 1024 + 14));
    let mut entries = Entries::new();
    let mut firsts: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut pending = vec![(Vec::new(), root, root)];
    while let Some((path, nid, parent)) = pending.pop() {
        let at = usize::try_from(nid * 32).unwrap();
        let mut entry = inode(image, at);
        if entry.mode & 0o170_000 == 0o040_000 {
            let found = directory(&entry.content);
            let names: Vec<_> = found.iter().map(|(name, ..)| name.clone()).collect();
            assert!(names.is_sorted() && !names.is_empty());
            for (name, child, kind) in found {
                match &name[..] {
                    b"." => assert_eq!(child, nid),
                    b".." => assert_eq!(child, parent),
                    _ => {
                        let mode = inode(image, usize::try_from(child * 32).unwrap()).mode;
                        let types = [1, 2, 3, 4, 5, 6, 7];
                        let kinds = [0o10, 0o4, 0o2, 0o6, 0o1, 0o14, 0o12];
                        let of_mode = kinds.iter().position(|it| *it == mode >> 12);
                        assert_eq!(types[of_mode.unwrap()], kind);
                        pending.push(([&path[..], b"/", &name].concat(), child, nid));
                    }
                }
            }
            entry.content.clear();
        }
        let first = firsts.entry(nid).or_insert_with(|| path.clone());
        *first = first.clone().min(path.clone());
        numbers.insert(path.clone(), nid);
        entries.insert(path, entry);
    }
    for (path, entry) in &mut entries {
        entry.same_as = firsts[&numbers[path]].clone();
    }
    let inodes = u64::from_le_bytes(image[1024 + 16..1024 + 24].try_into().unwrap());
    assert_eq!(inodes, firsts.len() as u64);
    entries
}

fn inode(image: &[u8], at: usize) -> FileRead {
    let format = u16_at(image, at);
    assert_eq!(format & 1, 1);
    let size = u64::from_le_bytes(image[at + 8..at + 16].try_into().unwrap());
    let size = usize::try_from(size).unwrap();
    let union = u32_at(image, at + 16);
    let mode = u16_at(image, at + 4);
    let xattr_size = match u16_at(image, at + 2) {
        0 => 0,
        count => 12 + 4 * (usize::from(count) - 1),
    };
    let behind = at + 64 + xattr_size;
    let first = union as usize * 4096;
    let content = match format >> 1 {
        0 if size == 0 || mode & 0o170_000 == 0o020_000 || mode & 0o170_000 == 0o060_000 => {
            Vec::new()
        }
        0 => image[first..first + size].to_vec(),
        2 => {
            let full = size / 4096 * 4096;
            let tail = &image[behind..behind + size - full];
            assert_eq!(behind / 4096, (behind + size - full - 1) / 4096);
            let blocks = if full == 0 {
                &[]
            } else {
                &image[first..first + full]
            };
            [blocks, tail].concat()
        }
        4 => {
            let chunk = 4096_usize << union;
            let mut content = Vec::new();
            for number in 0..size.div_ceil(chunk) {
                let length = chunk.min(size - number * chunk);
                match u32_at(image, behind + 4 * number) {
                    u32::MAX => content.resize(content.len() + length, 0),
                    block => {
                        let first = block as usize * 4096;
                        content.extend(&image[first..first + length]);
                    }
                }
            }
            content
        }
        other => panic!("layout {other}"),
    };
    FileRead {
        mode,
        uid: u32_at(image, at + 24),
        gid: u32_at(image, at + 28),
        mtime: (
            i64::from_le_bytes(image[at + 32..at + 40].try_into().unwrap()),
            u32_at(image, at + 40),
        ),
        links: u32_at(image, at + 44),
        device: if matches!(mode >> 12, 0o2 | 0o6) {
            union
        } else {
            0
        },
        content,
        xattrs: xattrs(&image[at + 64..behind]),
        same_as: Vec::new(),
    }
}

fn xattrs(mut bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut xattrs = BTreeMap::new();
    bytes = bytes.get(12..).unwrap_or_default();
    while !bytes.is_empty() {
        let (rest, size) = (usize::from(bytes[0]), usize::from(u16_at(bytes, 2)));
        let prefix: &[u8] = match bytes[1] {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => panic!("prefix {other}"),
        };
        let name = [prefix, &bytes[4..4 + rest]].concat();
        xattrs.insert(name, bytes[4 + rest..4 + rest + size].to_vec());
        bytes = &bytes[(4 + rest + size).next_multiple_of(4)..];
    }
    xattrs
}

fn directory(bytes: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
    let mut entries = Vec::new();
    for block in bytes.chunks(4096) {
        let count = usize::from(u16_at(block, 8)) / 12;
        for number in 0..count {
            let at = number * 12;
            let begin = usize::from(u16_at(block, at + 8));
            let end = if number + 1 < count {
                usize::from(u16_at(block, at + 12 + 8))
            } else {
                let rest = &block[begin..];
                begin
                    + rest
                        .iter()
                        .position(|byte| *byte == 0)
                        .unwrap_or(rest.len())
            };
            let nid = u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
            entries.push((block[begin..end].to_vec(), nid, block[at + 10]));
        }
    }
    entries
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
