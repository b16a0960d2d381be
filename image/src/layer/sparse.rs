//! Maps of files with holes.

use crate::tree::{Content, Extent, SourceId};

use super::error::Refusal;

/// Makes the content of a file with holes: `map` are offsets and lengths, whose bytes follow each
/// other in `source` from `position` on, and are `stored` in all.
pub(super) fn content(
    size: u64,
    map: &[u64],
    (source, position, stored): (SourceId, u64, u64),
) -> Result<Content, Refusal> {
    let (pairs, rest) = map.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Refusal::Sparse);
    }
    let mut taken = 0_u64;
    let mut extents = Vec::with_capacity(pairs.len());
    for [offset, length] in pairs {
        let (offset, length) = (*offset, *length);
        extents.push(Extent {
            offset,
            length,
            source,
            position: position.checked_add(taken).ok_or(Refusal::Sparse)?,
        });
        taken = taken.checked_add(length).ok_or(Refusal::Sparse)?;
    }
    if taken > stored {
        return Err(Refusal::Sparse);
    }
    Content::sparse(size, extents).ok_or(Refusal::Sparse)
}
