//! Paths in a tree, as a process in the guest resolves them: links lead to places in the tree.

use thiserror::Error;

use super::file_tree::FileTree;
use super::id::NodeId;
use super::node::Kind;

/// Limit of the symbolic links on the way of a path, as in Linux.
pub const MAX_SYMLINKS: usize = 40;
/// Limit of the names on the way of a path, with those of links: more than a path of Linux has.
const MAX_NAMES: usize = 4096;

/// The reason why a path leads to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A directory on the way has no such entry.
    #[error("it does not exist")]
    Missing {
        /// The directory.
        directory: NodeId,
        /// The name that it lacks.
        name: Box<[u8]>,
    },
    /// Something on the way is no directory.
    #[error("something on its way is no directory")]
    NotDirectory,
    /// There are too many symbolic links on the way.
    #[error("there are more than {MAX_SYMLINKS} symbolic links, or {MAX_NAMES} names, on its way")]
    TooManySymlinks,
}

impl FileTree {
    /// Finds what a path leads to. Symbolic links are followed, also the last one; `..` of the root is
    /// the root, so nothing leads out of the tree.
    ///
    /// # Errors
    /// [`ResolveError`] if it leads to nothing.
    pub fn resolve(&self, path: &[u8]) -> Result<NodeId, ResolveError> {
        let mut directories = vec![self.root()];
        let mut pending: Vec<&[u8]> = Vec::new();
        let (mut symlinks, mut names) = (0, 0);
        push(&mut pending, path);
        while let Some(name) = pending.pop() {
            names += 1;
            if names > MAX_NAMES {
                return Err(ResolveError::TooManySymlinks);
            }
            let directory = *directories.last().unwrap_or(&self.root());
            match name {
                b"" | b"." => continue,
                b".." => {
                    if directories.len() > 1 {
                        directories.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let Some(id) = self.child(directory, name) else {
                let name = name.into();
                return Err(ResolveError::Missing { directory, name });
            };
            match &self.node(id).kind {
                Kind::Directory(_) => directories.push(id),
                Kind::Symlink(target) => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(ResolveError::TooManySymlinks);
                    }
                    if target.first() == Some(&b'/') {
                        directories.truncate(1);
                    }
                    push(&mut pending, target);
                }
                _ if pending.is_empty() => return Ok(id),
                _ => return Err(ResolveError::NotDirectory),
            }
        }
        Ok(*directories.last().unwrap_or(&self.root()))
    }
}

/// Puts the names of a path in front of what is still to be resolved.
fn push<'a>(pending: &mut Vec<&'a [u8]>, path: &'a [u8]) {
    let names = path.split(|byte| *byte == b'/').rev();
    // A slash at the end asks for a directory, as `.` does.
    pending.extend(names.map(|name| if name.is_empty() { b"." } else { name }));
}
