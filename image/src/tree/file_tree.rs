//! The tree of files, and its changes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use ironclaw_host::untrusted;
use thiserror::Error;

use super::content::Source;
use super::id::{NodeId, SourceId};
use super::node::{Child, Children, Kind, Metadata, Node};

/// Longest name of a file in a directory, in bytes (`NAME_MAX` of Linux).
pub const MAX_NAME: usize = 255;
/// Longest target of a symbolic link, in bytes (`PATH_MAX` of Linux without the NUL).
pub const MAX_SYMLINK_TARGET: usize = 4095;

/// Files, directories, links and devices below one root.
#[derive(Debug, Clone)]
pub struct FileTree {
    nodes: Vec<Node>,
    sources: Vec<Source>,
}

/// The reason why a tree can't be changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// No directory can have an entry of this name.
    #[error(
        "{name:?} is no name of a file: it is empty, `.`, `..`, longer than {MAX_NAME} bytes, or holds `/` or NUL"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// What should hold an entry is no directory.
    #[error("it is no directory")]
    NotDirectory,
    /// A hard link to a directory.
    #[error("a hard link can't lead to a directory")]
    LinkToDirectory,
    /// There are more files than a tree can number.
    #[error("it has too many files")]
    Full,
}

impl Default for FileTree {
    fn default() -> Self {
        Self::new()
    }
}

impl FileTree {
    /// Creates a tree of a root directory alone, which is root's and has mode 0755.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::directory(Metadata::of_mode(0o755))],
            sources: Vec::new(),
        }
    }

    /// Returns the root directory.
    #[must_use]
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// Returns the number of nodes, which may be more than can be reached from the root: those that
    /// were removed count, too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether the root directory has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children(self.root()).is_none_or(Children::is_empty)
    }

    /// Returns a node. Its number has to be one of this tree.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Returns a node's metadata, to be changed.
    pub fn metadata_mut(&mut self, id: NodeId) -> &mut Metadata {
        &mut self.nodes[id.index()].metadata
    }

    /// Returns the entries of a directory; `None` for what is none.
    #[must_use]
    pub fn children(&self, id: NodeId) -> Option<&Children> {
        match &self.node(id).kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Returns an entry of a directory.
    #[must_use]
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        Some(self.children(directory)?.get(name)?.node)
    }

    /// Registers a file that content is read from.
    ///
    /// # Errors
    /// [`TreeError::Full`].
    pub fn add_source(&mut self, source: Source) -> Result<SourceId, TreeError> {
        let id = u32::try_from(self.sources.len()).map_err(|_| TreeError::Full)?;
        self.sources.push(source);
        Ok(SourceId(id))
    }

    /// Returns a file that content is read from.
    pub(crate) fn source(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(id.0 as usize)
    }

    /// Puts a new node into a directory, in the place of what has the name there.
    ///
    /// # Errors
    /// [`TreeError`]; nothing has changed then.
    pub fn insert(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: Node,
    ) -> Result<NodeId, TreeError> {
        self.insert_of(directory, name, node, 0)
    }

    /// Gives an existing node another name.
    ///
    /// # Errors
    /// [`TreeError`]; nothing has changed then.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) -> Result<(), TreeError> {
        self.link_of(directory, name, id, 0)
    }

    /// Inserts as [`insert`](Self::insert), and notes the number of the layer that brings it.
    pub(crate) fn insert_of(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: Node,
        layer: u32,
    ) -> Result<NodeId, TreeError> {
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| TreeError::Full)?);
        let child = Child { node: id, layer };
        self.slot(directory, name)?.insert(name.into(), child);
        self.nodes.push(node);
        Ok(id)
    }

    /// Links as [`link`](Self::link), and notes the number of the layer that brings it.
    pub(crate) fn link_of(
        &mut self,
        directory: NodeId,
        name: &[u8],
        id: NodeId,
        layer: u32,
    ) -> Result<(), TreeError> {
        if self.children(id).is_some() {
            return Err(TreeError::LinkToDirectory);
        }
        let child = Child { node: id, layer };
        self.slot(directory, name)?.insert(name.into(), child);
        Ok(())
    }

    /// Returns the highest number of a layer that brought an entry.
    #[cfg(feature = "oci")]
    pub(crate) fn last_layer(&self) -> u32 {
        let directories = self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        });
        let layers = directories.flat_map(|children| children.values().map(|child| child.layer));
        layers.max().unwrap_or(0)
    }

    /// Notes that a layer brings an entry that is there already.
    #[cfg(feature = "oci")]
    pub(crate) fn restate(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        let children = self.children_mut(directory);
        if let Some(child) = children.and_then(|it| it.get_mut(name)) {
            child.layer = layer;
        }
    }

    /// Removes the entries of a directory that another layer brought, but for directories with
    /// entries.
    #[cfg(feature = "oci")]
    pub(crate) fn retain_of(&mut self, directory: NodeId, layer: u32) {
        let Some(node) = self.nodes.get_mut(directory.index()) else {
            return;
        };
        let kind = std::mem::replace(&mut node.kind, Kind::Fifo);
        let kind = match kind {
            Kind::Directory(mut children) => {
                children.retain(|_, child| {
                    let below = self.children(child.node);
                    child.layer == layer || below.is_some_and(|it| !it.is_empty())
                });
                Kind::Directory(children)
            }
            other => other,
        };
        if let Some(node) = self.nodes.get_mut(directory.index()) {
            node.kind = kind;
        }
    }

    /// Removes an entry of a directory and returns whether there was one.
    pub fn remove(&mut self, directory: NodeId, name: &[u8]) -> bool {
        let children = self.children_mut(directory);
        children.and_then(|it| it.remove(name)).is_some()
    }

    fn slot(&mut self, directory: NodeId, name: &[u8]) -> Result<&mut Children, TreeError> {
        if !is_name(name) {
            return Err(TreeError::BadName { name: shown(name) });
        }
        self.children_mut(directory).ok_or(TreeError::NotDirectory)
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut Children> {
        match &mut self.nodes.get_mut(id.index())?.kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }
}

/// Returns whether a directory can have an entry of this name.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= MAX_NAME
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// Returns a name or a path for a message: in one line, whatever its bytes are.
pub(crate) fn shown(name: &[u8]) -> String {
    untrusted::line(&OsStr::from_bytes(name).to_string_lossy())
}
