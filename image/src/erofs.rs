//! Writes a [`FileTree`](crate::tree::FileTree) as an EROFS image: one read-only file that Linux mounts from 5.15 on.
//!
//! EROFS, since the kernel reads it without a tree of blocks to look up, since a page of a file is a
//! page of the image, and since its writer fits into this program: building takes neither root nor a
//! tool of the host. Nothing is compressed: all clones share the image's pages in the host's memory.
//!
//! ```text
//! block 0   1024: superblock   1152: inodes in the order of a walk, the root first; behind each its
//!           extended attributes, and what is small: entries, targets of links, files below a page
//! …         data: whole blocks, in the same order
//! ```
//!
//! Equal trees make equal images, byte for byte.

mod directory;
mod error;
mod format;
mod image;
mod open;
mod plan;
#[cfg(test)]
pub(crate) mod reader;
#[cfg(test)]
mod tests;
mod xattrs;

pub use error::ErofsError;
pub use image::{Written, write, write_within};
pub use open::{OpenImageError, open};
pub use xattrs::is_kept as keeps_xattr;
