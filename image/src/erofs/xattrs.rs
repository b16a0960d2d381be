//! Extended attributes, stored behind an inode.

use crate::tree::{Metadata, Xattrs};

/// Size of what precedes the attributes of an inode.
const HEADER: usize = 12;
/// Size of what precedes the name of an attribute.
const ENTRY: usize = 4;
/// Attributes and their counts are in units of it.
const UNIT: usize = 4;

/// The beginnings of names that the format knows, and their numbers.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// What the overlay of a guest would take for its own.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Returns whether an attribute gets into an image: one that Linux has on such a file system. What an
/// overlay has left on its upper layer is left out; in an image it would speak to the guest's.
#[must_use]
pub fn is_kept(name: &[u8]) -> bool {
    suffix(name).is_some() && !OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

/// Splits a name into the number of its beginning, and the rest.
fn suffix(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(prefix, number)| {
        let rest = name.strip_prefix(*prefix)?;
        // An ACL's name has no rest, and all others have one.
        (rest.is_empty() != prefix.ends_with(b".")).then_some((*number, rest))
    })
}

fn kept(metadata: &Metadata) -> impl Iterator<Item = ((u8, &[u8]), &[u8])> {
    let kept = metadata.xattrs().filter(|(name, _)| is_kept(name));
    kept.filter_map(|(name, value)| Some((suffix(name)?, value)))
}

/// Returns the size of a node's attributes.
pub(super) fn size(metadata: &Metadata) -> usize {
    let entries = kept(metadata)
        .map(|((_, rest), value)| (ENTRY + rest.len() + value.len()).next_multiple_of(UNIT));
    match entries.sum() {
        0 => 0,
        sum => HEADER + sum,
    }
}

/// Returns what an inode says of attributes of this size; `None` if they are too many.
pub(super) fn count(size: usize) -> Option<u16> {
    match size.checked_sub(HEADER) {
        None => Some(0),
        Some(entries) => u16::try_from(entries / UNIT + 1).ok(),
    }
}

/// Returns the size of attributes by what an inode says of them.
pub(super) fn size_of_count(count: u16) -> usize {
    match count.checked_sub(1) {
        None => 0,
        Some(entries) => HEADER + UNIT * usize::from(entries),
    }
}

/// Decodes what [`encode`] wrote; `None` for anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<Xattrs> {
    let mut xattrs = Xattrs::new();
    let mut rest = bytes.get(HEADER..)?;
    while !rest.is_empty() {
        let name_length = usize::from(*rest.first()?);
        let (prefix, _) = PREFIXES
            .iter()
            .find(|(_, number)| Some(number) == rest.get(1))?;
        let value_length = rest.get(2..ENTRY)?.try_into().ok()?;
        let value_length = usize::from(u16::from_le_bytes(value_length));
        let name = rest.get(ENTRY..ENTRY + name_length)?;
        let end = ENTRY + name_length + value_length;
        let value = rest.get(ENTRY + name_length..end)?;
        xattrs.insert([prefix, name].concat().into(), value.into());
        rest = rest.get(end.next_multiple_of(UNIT)..)?;
    }
    Some(xattrs)
}

/// Encodes a node's attributes. Those that [`count`] or a field has no room for were refused before.
pub(super) fn encode(metadata: &Metadata) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size(metadata));
    for ((prefix, rest), value) in kept(metadata) {
        if bytes.is_empty() {
            bytes.resize(HEADER, 0);
        }
        bytes.extend([rest.len().to_le_bytes()[0], prefix]);
        bytes.extend(&value.len().to_le_bytes()[..2]);
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(UNIT), 0);
    }
    bytes
}

/// Returns whether each attribute fits into its fields.
pub(super) fn fit(metadata: &Metadata) -> bool {
    let mut kept = kept(metadata);
    kept.all(|((_, rest), value)| {
        u8::try_from(rest.len()).is_ok() && u16::try_from(value.len()).is_ok()
    })
}
