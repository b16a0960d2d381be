//! Blocks of directories: entries in the order of their names' bytes, and then the names.

use crate::tree::{Children, NodeId};

use super::format::{BLOCK, BLOCK_SIZE};

/// Size of an entry without its name.
const ENTRY: usize = 12;
/// What an entry says of a directory.
const DIRECTORY: u8 = 2;

/// Where a new block begins: whether `name` does not fit behind what is there.
struct Filling(usize);

impl Filling {
    fn starts_block(&mut self, name: &[u8]) -> bool {
        let taken = ENTRY + name.len();
        let starts = self.0 == 0 || self.0 + taken > BLOCK_SIZE;
        self.0 = if starts { taken } else { self.0 + taken };
        starts
    }
}

/// Returns the names of a directory's entries, the two of each directory among them, in order.
fn names(children: &Children) -> impl Iterator<Item = &[u8]> {
    let mut own = [&b"."[..], b".."].into_iter().peekable();
    let mut others = children.keys().map(|name| &**name).peekable();
    std::iter::from_fn(move || match (own.peek(), others.peek()) {
        (Some(a), Some(b)) if b < a => others.next(),
        (Some(_), _) => own.next(),
        (None, _) => others.next(),
    })
}

/// Returns the size of a directory: that of its blocks, the last one as far as it is used.
pub(super) fn size(children: &Children) -> u64 {
    let mut filling = Filling(0);
    let blocks = names(children).filter(|name| filling.starts_block(name));
    let blocks = blocks.count() as u64;
    blocks.saturating_sub(1) * BLOCK + filling.0 as u64
}

/// Encodes a directory; the last block ends with its last name. `own` are the numbers of the directory
/// and of its parent, `of` returns the number and the type of a node.
pub(super) fn blocks(
    children: &Children,
    own: (u64, u64),
    of: impl Fn(NodeId) -> (u64, u8),
) -> Vec<Vec<u8>> {
    let mut filling = Filling(0);
    let mut blocks = Vec::new();
    let mut entries: Vec<(&[u8], (u64, u8))> = Vec::new();
    for name in names(children) {
        if filling.starts_block(name) && !entries.is_empty() {
            blocks.push(block(&entries));
            entries.clear();
        }
        let node = match (name, children.get(name)) {
            (_, Some(child)) => of(child.node),
            (b"..", None) => (own.1, DIRECTORY),
            (_, None) => (own.0, DIRECTORY),
        };
        entries.push((name, node));
    }
    blocks.push(block(&entries));
    blocks
}

fn block(entries: &[(&[u8], (u64, u8))]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_SIZE);
    let mut name_offset = entries.len() * ENTRY;
    for (name, (nid, kind)) in entries {
        bytes.extend(nid.to_le_bytes());
        // Within a block.
        bytes.extend(&name_offset.to_le_bytes()[..2]);
        bytes.extend([*kind, 0]);
        name_offset += name.len();
    }
    for (name, _) in entries {
        bytes.extend(*name);
    }
    bytes
}
