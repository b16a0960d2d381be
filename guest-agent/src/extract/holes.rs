//! Files with holes, in GNU's format 1.0: their content begins with a map of the parts that are there.

use std::collections::VecDeque;

use super::malformed::Malformed;
use crate::archive::entry::Extent;

/// Limit of a map, in bytes.
pub(crate) const MAX_MAP: usize = 256 * 1024;

/// Returns the parts of a file of this size, of which so many bytes are left; `None` if the map goes on.
pub(crate) fn extents(
    map: &[u8],
    left: u64,
    size: u64,
) -> Option<Result<VecDeque<Extent>, Malformed>> {
    let numbers = match numbers(map)? {
        Ok(numbers) => numbers,
        Err(error) => return Some(Err(error)),
    };
    let mut extents = VecDeque::new();
    let mut end = 0;
    let mut stored = 0_u64;
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        match offset.checked_add(length) {
            Some(next) if offset >= end && next <= size => end = next,
            _ => return Some(Err(Malformed::Map)),
        }
        stored += length;
        extents.push_back(Extent { offset, length });
    }
    Some(match stored == left {
        true => Ok(extents),
        false => Err(Malformed::Map),
    })
}

/// Returns the offsets and lengths, each in a line, behind the number of both.
fn numbers(map: &[u8]) -> Option<Result<Vec<u64>, Malformed>> {
    let mut lines = map.split_inclusive(|byte| *byte == b'\n');
    let mut next = || {
        let line = lines.next()?.strip_suffix(b"\n")?;
        let number = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse().ok());
        Some(number.ok_or(Malformed::Map))
    };
    let count: u64 = match next()? {
        Ok(count) if count <= MAX_MAP as u64 => count,
        _ => return Some(Err(Malformed::Map)),
    };
    let mut numbers = Vec::new();
    for _ in 0..2 * count {
        match next()? {
            Ok(number) => numbers.push(number),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(numbers))
}
