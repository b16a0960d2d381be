//! Directories on the way to what is put into a tree.

use super::file_tree::{FileTree, TreeError};
use super::id::NodeId;
use super::node::{Metadata, Node};
use super::resolve::ResolveError;

impl FileTree {
    /// Finds a directory as [`resolve`](Self::resolve) does, and makes what is missing of it: each
    /// with the metadata and the layer that `implied` returns for a name in a directory.
    ///
    /// # Errors
    /// What is on the way is no directory, the tree can't take another one, or that of `implied`.
    pub(crate) fn make_directory<E: From<ResolveError> + From<TreeError>>(
        &mut self,
        path: &[u8],
        mut implied: impl FnMut(&Self, NodeId, &[u8]) -> Result<(Metadata, u32), E>,
    ) -> Result<NodeId, E> {
        loop {
            match self.resolve(path) {
                Ok(id) if self.children(id).is_some() => return Ok(id),
                Ok(_) => return Err(ResolveError::NotDirectory.into()),
                Err(ResolveError::Missing { directory, name }) => {
                    let (metadata, layer) = implied(self, directory, &name)?;
                    self.insert_of(directory, &name, Node::directory(metadata), layer)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
