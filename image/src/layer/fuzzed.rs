//! Layers of arbitrary bytes.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{Limits, Merge};
use crate::erofs;

/// Applies bytes as two layers, and writes the image of what they make. Mends the checksums of
/// headers first, which no fuzzer finds; the first byte says where the second layer begins.
pub fn fuzz(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let middle = usize::from(*first) * 512;
    let (lower, upper) = rest.split_at(middle.min(rest.len()));
    let mut limits = Limits::default();
    // So that an image is small, and limits are met.
    (limits.entries, limits.file) = (200, 1 << 20);
    let mut merge = Merge::new(limits.clone());
    for layer in [lower, upper] {
        let mended: Vec<u8> = layer.chunks(512).flat_map(mended).collect();
        let Ok(memory) = memfd_create("layer", MemfdFlags::CLOEXEC) else {
            return;
        };
        let mut file = File::from(memory);
        if file.write_all(&mended).is_err() || merge.apply("fuzzed", Arc::new(file)).is_err() {
            return;
        }
    }
    let tree = merge.into_tree();
    // And the root.
    assert!(tree.len() <= limits.entries + 1);
    let written = erofs::write(&tree, &mut std::io::sink());
    assert!(written.is_ok_and(|written| written.inodes <= tree.len() as u64));
}

/// Gives a block the checksum that a header of these bytes has.
fn mended(block: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    if block.len() == 512 && block.iter().any(|byte| *byte != 0) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    block
}
