//! Input handling shared by the fuzz targets of both ends.

use alloc::vec::Vec;

/// Cuts `bytes` into frames with correct lengths: each is a length in two bytes, and a payload.
#[must_use]
pub fn framed(mut bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        stream.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
        stream.extend_from_slice(payload);
        bytes = rest;
    }
    stream
}
