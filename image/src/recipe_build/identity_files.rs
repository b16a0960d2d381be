//! What the guest of a step says about itself, in its own `/etc`: the agent's, and no change of the step.

use crate::tree::{Child, FileTree, Kind, NodeId};

/// Their names.
const IDENTITY_FILES: [&[u8]; 3] = [b"hostname", b"hosts", b"machine-id"];

/// The files of a guest's identity as the image has them.
pub(super) struct IdentityFiles(Vec<(&'static [u8], Option<Child>)>);

impl IdentityFiles {
    fn directory(tree: &FileTree) -> Option<NodeId> {
        let etc = tree.resolve(b"/etc").ok()?;
        tree.children(etc).map(|_| etc)
    }

    pub(super) fn of(tree: &FileTree) -> Self {
        let etc = Self::directory(tree).and_then(|etc| tree.children(etc));
        let files = IDENTITY_FILES.map(|name| (name, etc.and_then(|etc| etc.get(name)).copied()));
        Self(files.into())
    }

    /// Undoes what the guest of a step did to them.
    pub(super) fn put_back(self, tree: &mut FileTree) {
        let Some(etc) = Self::directory(tree) else {
            return;
        };
        for (name, before) in self.0 {
            match before {
                None => {
                    // One that the step made a directory of is the step's own.
                    let is_file = |id| matches!(tree.node(id).kind, Kind::File(_));
                    if tree.child(etc, name).is_some_and(is_file) {
                        tree.remove(etc, name);
                    }
                }
                Some(child) if tree.children(child.node).is_none() => {
                    // A file of the tree's own: it can't fail.
                    let _ = tree.link_of(etc, name, child.node, child.layer);
                }
                Some(_) => {}
            }
        }
    }
}
