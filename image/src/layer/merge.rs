//! Puts layers on top of each other.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use crate::tree::{
    FileTree, Kind, Metadata, Node, NodeId, ResolveError, Source, TreeError, is_name, shown,
};

use super::archive::{Archive, Entry, EntryKind};
use super::error::{LayerError, Refusal};
use super::limits::Limits;

/// A name that begins so hides something of lower layers.
const WHITEOUT: &[u8] = b".wh.";
/// A name that begins so is about a layer, not about a file.
const LAYER_NOTE: &[u8] = b".wh..wh.";
/// This one hides all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The layers of an image so far.
#[derive(Debug)]
pub struct Merge {
    tree: FileTree,
    limits: Limits,
    /// The number of the layer that is being applied, from 1.
    layer: u32,
    entries: usize,
    text_bytes: usize,
    extents: usize,
    /// Directories whose lower entries this layer has hidden: there are none left to look for.
    cleared: HashSet<NodeId>,
}

impl Merge {
    /// Begins with an empty root directory.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            tree: FileTree::new(),
            limits,
            layer: 0,
            entries: 0,
            text_bytes: 0,
            extents: 0,
            cleared: HashSet::new(),
        }
    }

    /// Begins with files that are there already, below all layers that follow.
    #[must_use]
    pub fn onto(tree: FileTree, limits: Limits) -> Self {
        Self {
            layer: tree.last_layer(),
            entries: tree.len(),
            tree,
            ..Self::new(limits)
        }
    }

    /// Applies the tar archive in `file`, which is the layer `name` in errors. Its content stays there.
    ///
    /// # Errors
    /// [`LayerError`]; the merge is of no use then.
    pub fn apply(&mut self, name: &str, file: Arc<File>) -> Result<(), LayerError> {
        let failed = |entry: Option<&[u8]>, refusal| LayerError {
            layer: name.to_owned(),
            entry: entry.map(shown),
            refusal,
        };
        let limits = self.limits.clone();
        self.layer += 1;
        self.cleared.clear();
        let source = self.tree.add_source(Source::Open(Arc::clone(&file)));
        let source = source.map_err(|error| failed(None, error.into()))?;
        let archive = Archive::new(&file, source, &limits);
        let mut archive = archive.map_err(|refusal| failed(None, refusal))?;
        loop {
            match archive.next() {
                Ok(None) => return Ok(()),
                Ok(Some(entry)) => {
                    let path = entry.path.clone();
                    let taken = self.take(entry);
                    taken.map_err(|refusal| failed(Some(&path), refusal))?;
                }
                Err((path, refusal)) => return Err(failed(path.as_deref(), refusal)),
            }
        }
    }

    /// Returns all files.
    #[must_use]
    pub fn into_tree(self) -> FileTree {
        self.tree
    }

    fn take(&mut self, entry: Entry) -> Result<(), Refusal> {
        self.count(&entry)?;
        let Entry {
            path,
            metadata,
            kind,
        } = entry;
        let names = self.names(&path)?;
        let Some((name, parents)) = names.split_last() else {
            let EntryKind::Directory = kind else {
                return Err(Refusal::Root);
            };
            *self.tree.metadata_mut(self.tree.root()) = metadata;
            return Ok(());
        };
        let parents = parents.join(&b'/');
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&parents, name);
        }
        let directory = self.directory(&parents)?;
        let kind = match kind {
            EntryKind::Directory => return self.restate(directory, name, metadata),
            EntryKind::HardLink(target) => return self.link(directory, name, &target),
            EntryKind::File(content) => Kind::File(content),
            EntryKind::Symlink(target) => Kind::Symlink(target.into()),
            EntryKind::CharDevice(number) => Kind::CharDevice(number),
            EntryKind::BlockDevice(number) => Kind::BlockDevice(number),
            EntryKind::Fifo => Kind::Fifo,
        };
        let node = Node { metadata, kind };
        self.insert(directory, name, node).map(drop)
    }

    /// Counts what an entry takes of memory.
    fn count(&mut self, entry: &Entry) -> Result<(), Refusal> {
        count_entry(&mut self.entries, &self.limits)?;
        let xattrs = entry.metadata.xattrs().map(|(name, value)| {
            // An entry of a map, too.
            name.len() + value.len() + 64
        });
        let (target, extents) = match &entry.kind {
            EntryKind::Symlink(target) => (target.len(), 0),
            EntryKind::File(content) => (0, content.extents().len().saturating_sub(1)),
            _ => (0, 0),
        };
        self.text_bytes += entry.path.len() + target + xattrs.sum::<usize>();
        self.extents += extents;
        let too_much = |what, limit| {
            let limit = limit as u64;
            Err(Refusal::TooMuch { what, limit })
        };
        if self.text_bytes > self.limits.text_bytes {
            return too_much(
                "bytes of names and extended attributes",
                self.limits.text_bytes,
            );
        }
        if self.extents > self.limits.extents {
            return too_much("extents of files with holes", self.limits.extents);
        }
        Ok(())
    }

    /// Splits a path into names. Below the root, so a slash in front of it says nothing.
    fn names<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, Refusal> {
        let names = path.split(|byte| *byte == b'/');
        let names: Vec<_> = names.filter(|it| !matches!(it, [] | [b'.'])).collect();
        if path.len() > self.limits.path || names.len() > self.limits.depth {
            let (what, limit) = ("bytes or directories in one path", self.limits.path as u64);
            return Err(Refusal::TooMuch { what, limit });
        }
        if names.contains(&&b".."[..]) {
            return Err(Refusal::ParentDirectory);
        }
        if names.iter().all(|name| is_name(name)) {
            Ok(names)
        } else {
            Err(Refusal::BadName)
        }
    }

    /// Finds a directory, through symbolic links of the image, and makes what is missing of it.
    fn directory(&mut self, path: &[u8]) -> Result<NodeId, Refusal> {
        let Self {
            tree,
            limits,
            layer,
            entries,
            ..
        } = self;
        tree.make_directory(path, |_, _, _| {
            count_entry(entries, limits)?;
            Ok((Metadata::of_mode(0o755), *layer))
        })
    }

    fn insert(&mut self, directory: NodeId, name: &[u8], node: Node) -> Result<NodeId, Refusal> {
        Ok(self.tree.insert_of(directory, name, node, self.layer)?)
    }

    /// Makes a directory, or gives the one that is there other metadata.
    fn restate(
        &mut self,
        directory: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<(), Refusal> {
        match self.tree.child(directory, name) {
            Some(id) if self.tree.children(id).is_some() => {
                *self.tree.metadata_mut(id) = metadata;
                self.tree.restate(directory, name, self.layer);
                Ok(())
            }
            _ => self
                .insert(directory, name, Node::directory(metadata))
                .map(drop),
        }
    }

    fn link(&mut self, directory: NodeId, name: &[u8], target: &[u8]) -> Result<(), Refusal> {
        let failed = |reason: String| Refusal::HardLink {
            target: shown(target),
            reason,
        };
        let names = self.names(target)?;
        let Some((last, parents)) = names.split_last() else {
            return Err(failed(TreeError::LinkToDirectory.to_string()));
        };
        let found = self.tree.resolve(&parents.join(&b'/'));
        let found = found.map_err(|error| failed(error.to_string()))?;
        let Some(id) = self.tree.child(found, last) else {
            return Err(failed("it does not exist".to_owned()));
        };
        let linked = self.tree.link_of(directory, name, id, self.layer);
        linked.map_err(|error| failed(error.to_string()))
    }

    fn whiteout(&mut self, parents: &[u8], name: &[u8]) -> Result<(), Refusal> {
        let Some(directory) = self.existing(parents)? else {
            return Ok(());
        };
        if name == OPAQUE {
            self.clear(directory);
            return Ok(());
        }
        if name.starts_with(LAYER_NOTE) {
            return Ok(());
        }
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if !is_name(hidden) {
            return Err(Refusal::BadWhiteout);
        }
        self.hide(directory, hidden);
        Ok(())
    }

    /// Finds the directory of a whiteout; where there is none, it hides nothing.
    fn existing(&self, path: &[u8]) -> Result<Option<NodeId>, Refusal> {
        match self.tree.resolve(path) {
            Ok(id) => Ok(self.tree.children(id).is_some().then_some(id)),
            Err(ResolveError::TooManySymlinks) => {
                Err(Refusal::Place(ResolveError::TooManySymlinks))
            }
            Err(_) => Ok(None),
        }
    }

    /// Removes what lower layers have under a name.
    fn hide(&mut self, directory: NodeId, name: &[u8]) {
        let children = self.tree.children(directory);
        let Some(child) = children.and_then(|children| children.get(name)).copied() else {
            return;
        };
        if self.tree.children(child.node).is_some() {
            self.clear(child.node);
        }
        let is_empty = self
            .tree
            .children(child.node)
            .is_none_or(|it| it.is_empty());
        if child.layer < self.layer && is_empty {
            self.tree.remove(directory, name);
        }
    }

    /// Removes what lower layers have in a directory. What this one brings stays, wherever in the
    /// archive it is.
    fn clear(&mut self, directory: NodeId) {
        let mut found = vec![directory];
        let mut next = 0;
        // Each directory before those in it.
        while let Some(id) = found.get(next).copied() {
            next += 1;
            if !self.cleared.insert(id) {
                continue;
            }
            let children = self.tree.children(id).into_iter().flatten();
            let below = children.map(|(_, child)| child.node);
            found.extend(below.filter(|id| self.tree.children(*id).is_some()));
        }
        for id in found.into_iter().rev() {
            self.tree.retain_of(id, self.layer);
        }
    }
}

/// Counts a name: also one more of a file takes memory, and one that is replaced later.
fn count_entry(entries: &mut usize, limits: &Limits) -> Result<(), Refusal> {
    *entries += 1;
    if *entries > limits.entries {
        let limit = limits.entries as u64;
        return Err(Refusal::TooMuch {
            what: "files",
            limit,
        });
    }
    Ok(())
}
