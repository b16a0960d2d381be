//! The files of a root file system, before they are in an image: names, metadata, and where their
//! content is.
//!
//! Nothing of it is ever extracted onto the host: owners, devices, capabilities and links are data
//! here, so nobody needs to be root to build an image, and no path leads out of one. Content stays in
//! the files that it came in ([`Source`]): a tree takes memory by its number of files alone.

mod content;
mod file_tree;
mod id;
#[cfg(feature = "oci")]
mod make_directory;
mod node;
mod reader;
mod resolve;
#[cfg(test)]
mod tests;

pub use content::{Content, Extent, Source};
pub(crate) use file_tree::shown;
pub use file_tree::{FileTree, MAX_NAME, MAX_SYMLINK_TARGET, TreeError, is_name};
pub use id::{NodeId, SourceId};
pub use node::{Child, Children, DeviceNumber, Kind, Metadata, Mtime, Name, Node, Xattrs};
pub use reader::Reader;
pub use resolve::{MAX_SYMLINKS, ResolveError};
