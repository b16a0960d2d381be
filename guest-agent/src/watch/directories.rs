//! The directories of a watch, as a tree: a directory that is renamed changes one name, and the paths
//! of all below follow.

use std::collections::HashMap;

use ironclaw_protocol::limits::MAX_PATH;

/// The kernel's number of a watched directory (`wd`).
pub(crate) type Descriptor = i32;

/// Limit of the names of a path: each takes a byte and a slash.
const MAX_NAMES: usize = MAX_PATH / 2;

#[derive(Debug)]
struct Node {
    /// `None` for the root, whose name is its whole path.
    parent: Option<Descriptor>,
    name: Vec<u8>,
    /// The last search that came by.
    visit: u32,
}

/// The tree of watched directories.
#[derive(Debug)]
pub(crate) struct Directories {
    root: Descriptor,
    nodes: HashMap<Descriptor, Node>,
}

impl Directories {
    /// Creates a tree of its root alone, which has this path.
    pub(crate) fn new(root: Descriptor, path: &[u8]) -> Self {
        let node = Node {
            parent: None,
            name: path.strip_suffix(b"/").unwrap_or(path).to_vec(),
            visit: 0,
        };
        Self {
            root,
            nodes: HashMap::from([(root, node)]),
        }
    }

    pub(crate) fn root(&self) -> Descriptor {
        self.root
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn contains(&self, directory: Descriptor) -> bool {
        self.nodes.contains_key(&directory)
    }

    /// Adds a directory that is watched from now on.
    pub(crate) fn insert(&mut self, new: Descriptor, parent: Descriptor, name: &[u8], visit: u32) {
        let node = Node {
            parent: Some(parent),
            name: name.to_vec(),
            visit,
        };
        self.nodes.insert(new, node);
    }

    /// Records that a search comes by; returns whether it had not before.
    pub(crate) fn visit(&mut self, directory: Descriptor, visit: u32) -> bool {
        let node = self.nodes.get_mut(&directory);
        node.is_some_and(|node| std::mem::replace(&mut node.visit, visit) != visit)
    }

    /// Returns how many directories are above one, below the root.
    pub(crate) fn depth(&self, directory: Descriptor) -> usize {
        self.chain(directory).len()
    }

    /// Returns the path of a name in a directory; of the directory itself, if the name is empty.
    pub(crate) fn path(&self, directory: Descriptor, name: &[u8]) -> Option<Vec<u8>> {
        let mut names: Vec<_> = self.chain(directory);
        if names.len() >= MAX_NAMES {
            return None;
        }
        names.push(&self.nodes.get(&self.root)?.name);
        names.reverse();
        if !name.is_empty() {
            names.push(name);
        }
        let path = names.join(&b'/');
        // Of the root of all files, which has no name.
        Some(if path.is_empty() { b"/".to_vec() } else { path })
    }

    /// Returns the names from a directory up to the root, without that; of a directory that is not
    /// below the root, or in a circle, as many as no path has.
    fn chain(&self, directory: Descriptor) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut next = self.nodes.get(&directory);
        while let Some(node) = next
            && let Some(parent) = node.parent
            && names.len() < MAX_NAMES
        {
            names.push(&node.name[..]);
            next = self.nodes.get(&parent);
        }
        names
    }

    /// Finds a watched directory by its name in another one.
    pub(crate) fn find(&self, parent: Descriptor, name: &[u8]) -> Option<Descriptor> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|(_, node)| node.parent == Some(parent) && node.name == name);
        found.map(|(&directory, _)| directory)
    }

    /// Gives a directory another name and parent.
    pub(crate) fn rename(&mut self, directory: Descriptor, parent: Descriptor, name: &[u8]) {
        if let Some(node) = self.nodes.get_mut(&directory) {
            (node.parent, node.name) = (Some(parent), name.to_vec());
        }
    }

    /// Forgets a directory that is not watched any more.
    pub(crate) fn remove(&mut self, directory: Descriptor) {
        self.nodes.remove(&directory);
    }

    /// Forgets all directories at or below one, but for the root; returns them.
    pub(crate) fn remove_tree(&mut self, top: Descriptor) -> Vec<Descriptor> {
        let is_below = |mut at: Descriptor| {
            for _ in 0..MAX_NAMES {
                if at == top {
                    return true;
                }
                match self.nodes.get(&at).and_then(|node| node.parent) {
                    Some(parent) => at = parent,
                    None => return false,
                }
            }
            false
        };
        let all = self.nodes.keys().copied();
        let removed: Vec<_> = all.filter(|&at| at != self.root && is_below(at)).collect();
        for directory in &removed {
            self.nodes.remove(directory);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Directories {
        let mut tree = Directories::new(1, b"/r/");
        tree.insert(2, 1, b"a", 0);
        tree.insert(3, 2, b"b", 0);
        tree
    }

    fn path(tree: &Directories, directory: Descriptor, name: &str) -> String {
        String::from_utf8(tree.path(directory, name.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn paths_are_those_of_the_names_whatever_the_root_is() {
        let tree = tree();
        assert_eq!(path(&tree, 1, ""), "/r");
        assert_eq!(path(&tree, 3, "f"), "/r/a/b/f");
        assert_eq!(tree.depth(3), 2);
        let root = Directories::new(1, b"/");
        assert_eq!(
            (path(&root, 1, "").as_str(), path(&root, 1, "x").as_str()),
            ("/", "/x")
        );
    }

    #[test]
    fn what_is_below_a_renamed_directory_has_its_new_path() {
        let mut tree = tree();
        assert_eq!(tree.find(1, b"a"), Some(2));
        tree.rename(2, 1, b"c");
        assert_eq!(
            (path(&tree, 3, ""), tree.find(1, b"a")),
            ("/r/c/b".to_owned(), None)
        );
    }

    #[test]
    fn a_tree_is_forgotten_whole_and_the_root_never() {
        let mut tree = tree();
        tree.insert(4, 1, b"d", 0);
        let mut removed = tree.remove_tree(2);
        removed.sort_unstable();
        assert_eq!((removed, tree.len()), (vec![2, 3], 2));
        assert_eq!((tree.remove_tree(1), tree.len()), (vec![4], 1));
    }

    #[test]
    fn a_circle_has_no_path_and_ends() {
        let mut tree = tree();
        tree.rename(2, 3, b"a");
        assert_eq!(tree.path(3, b"x"), None);
        assert_eq!(tree.remove_tree(1), []);
    }
}
