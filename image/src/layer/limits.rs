//! What an image may take.

/// Bounds of the layers of one image. The memory of a build follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of all layers, and the directories that they imply.
    pub entries: usize,
    /// Bytes of all names, link targets and extended attributes.
    pub text_bytes: usize,
    /// Extents of all files with holes.
    pub extents: usize,
    /// Bytes of an entry's path.
    pub path: usize,
    /// Directories of an entry's path.
    pub depth: usize,
    /// Size of a file, with its holes.
    pub file: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            text_bytes: 64 << 20,
            extents: 256 << 10,
            path: 4096,
            depth: 256,
            file: 1 << 40,
        }
    }
}
