//! Puts files of a context into a tree.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use thiserror::Error;

use super::Copy;
use super::context::{Context, ContextError, Selected, SelectedKind};
use super::owner::Owner;
use crate::tree::{
    Content, FileTree, Kind, Metadata, Mtime, Node, NodeId, ResolveError, Source, TreeError,
};

impl Context {
    /// Puts what `copy` copies into `tree`, as `owner`'s. Directories that are missing on the way are
    /// made, as root's and for all to read. The content of files is read when the tree is written.
    ///
    /// # Errors
    /// [`ContextError`] with the first file that can't be copied; the tree has those before it then.
    pub fn copy_into(
        &self,
        tree: &mut FileTree,
        copy: &Copy,
        owner: Owner,
    ) -> Result<(), ContextError> {
        let found = tree.resolve(copy.to.as_bytes());
        let is_directory = found.is_ok_and(|id| tree.children(id).is_some());
        for selected in self.select(copy, is_directory)? {
            self.put(tree, &selected, owner)?;
        }
        Ok(())
    }

    fn put(
        &self,
        tree: &mut FileTree,
        selected: &Selected,
        owner: Owner,
    ) -> Result<(), ContextError> {
        let in_the_way = |reason: String| ContextError::Place {
            to: selected.to.clone(),
            reason,
        };
        let failed = |error: TreeError| in_the_way(error.to_string());
        let metadata = Metadata {
            mode: (selected.mode & 0o7777) as u16,
            uid: owner.uid,
            gid: owner.gid,
            mtime: Mtime {
                seconds: selected.modified,
                nanoseconds: 0,
            },
            xattrs: None,
        };
        let kind = match &selected.kind {
            SelectedKind::Directory => {
                let path = selected.to.as_os_str().as_bytes();
                return make_directory(tree, path, &metadata)
                    .map(drop)
                    .map_err(in_the_way);
            }
            SelectedKind::Symlink(target) => Kind::Symlink(target.as_os_str().as_bytes().into()),
            SelectedKind::File { path } => {
                let path = self.root().join(path);
                let io = |source| ContextError::Io {
                    path: path.clone(),
                    source,
                };
                let now = fs::symlink_metadata(&path).map_err(io)?;
                let source = Source::at(path.clone(), &now);
                let source = tree.add_source(source).map_err(failed)?;
                Kind::File(Content::whole(source, 0, now.len()))
            }
            SelectedKind::Inline(text) => {
                let file = in_memory(text).map_err(|source| ContextError::Io {
                    path: selected.to.clone(),
                    source,
                })?;
                let source = Source::Open(Arc::new(file));
                let source = tree.add_source(source).map_err(failed)?;
                Kind::File(Content::whole(source, 0, text.len() as u64))
            }
        };
        let parent = selected.to.parent().unwrap_or(Path::new("/"));
        let implied = Metadata::of_mode(0o755);
        let parent = make_directory(tree, parent.as_os_str().as_bytes(), &implied);
        let parent = parent.map_err(in_the_way)?;
        let name = selected.to.file_name().unwrap_or_default().as_bytes();
        if let Some(existing) = tree.child(parent, name)
            && tree.children(existing).is_some()
        {
            return Err(in_the_way("a directory is there".to_owned()));
        }
        let node = Node { metadata, kind };
        tree.insert(parent, name, node).map(drop).map_err(failed)
    }
}

/// Finds a directory, through symbolic links of the tree, and makes what is missing of it: the last
/// one with `metadata`.
pub(super) fn make_directory(
    tree: &mut FileTree,
    path: &[u8],
    metadata: &Metadata,
) -> Result<NodeId, String> {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (parent, last) = (&path[..end], path.get(end + 1..).unwrap_or_default());
    tree.make_directory(path, |tree, directory, name| {
        let is_last = name == last && tree.resolve(parent) == Ok(directory);
        let metadata = if is_last {
            metadata.clone()
        } else {
            Metadata::of_mode(0o755)
        };
        Ok((metadata, 0))
    })
    .map_err(|error: DirectoryError| error.to_string())
}

/// The reason why a directory can't be made.
#[derive(Debug, Error)]
#[error(transparent)]
enum DirectoryError {
    Place(#[from] ResolveError),
    Tree(#[from] TreeError),
}

fn in_memory(text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("recipe", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::recipe::CopySource;
    use crate::tree::Reader;

    fn text(tree: &FileTree, path: &str) -> String {
        let node = tree.node(tree.resolve(path.as_bytes()).unwrap());
        let Kind::File(content) = &node.kind else {
            panic!("{path} is no file");
        };
        let mut bytes = vec![0; usize::try_from(content.size()).unwrap()];
        let mut reader = Reader::new(tree);
        reader.read_at(content, 0, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// An image whose /lib is a link to usr/lib, as Debian's.
    fn image() -> FileTree {
        let mut tree = FileTree::new();
        let root = tree.root();
        let new = || Node::directory(Metadata::of_mode(0o700));
        let usr = tree.insert(root, b"usr", new()).unwrap();
        tree.insert(usr, b"lib", new()).unwrap();
        let link = Node {
            metadata: Metadata::of_mode(0o777),
            kind: Kind::Symlink((*b"usr/lib").into()),
        };
        tree.insert(root, b"lib", link).unwrap();
        tree
    }

    #[test]
    fn files_go_through_links_of_the_image_and_stay_in_it() {
        let context = tempfile::tempdir().unwrap();
        fs::write(context.path().join("a"), "text").unwrap();
        fs::create_dir(context.path().join("d")).unwrap();
        symlink("/etc/passwd", context.path().join("d/link")).unwrap();
        let opened = Context::open(context.path()).unwrap();
        let mut tree = image();
        let owner = Owner { uid: 5, gid: 6 };
        let copy = Copy::new("a".to_owned(), "/lib".to_owned());
        opened.copy_into(&mut tree, &copy, owner).unwrap();
        assert_eq!(text(&tree, "/usr/lib/a"), "text");
        let copy = Copy::new("d".to_owned(), "/../new/new/".to_owned());
        opened.copy_into(&mut tree, &copy, owner).unwrap();
        let deep = tree.resolve(b"/new/new").unwrap();
        assert_eq!(tree.node(deep).metadata.uid, 5);
        let implied = tree.resolve(b"/new").unwrap();
        assert_eq!(tree.node(implied).metadata, Metadata::of_mode(0o755));
        let link = tree.node(tree.child(deep, b"link").unwrap());
        assert_eq!(link.kind, Kind::Symlink((*b"/etc/passwd").into()));
        // What is there already keeps its own.
        let kept = tree.resolve(b"/usr/lib").unwrap();
        assert_eq!(tree.node(kept).metadata.mode, 0o700);
    }

    #[test]
    fn inline_files_have_their_text() {
        let context = tempfile::tempdir().unwrap();
        let opened = Context::open(context.path()).unwrap();
        let mut copy = Copy::new(String::new(), "/etc/".to_owned());
        copy.sources = vec![CopySource::Inline {
            name: "motd".to_owned(),
            content: "hi\n".to_owned(),
        }];
        let mut tree = image();
        opened
            .copy_into(&mut tree, &copy, Owner::default())
            .unwrap();
        assert_eq!(text(&tree, "/etc/motd"), "hi\n");
    }

    #[test]
    fn directories_and_files_do_not_replace_each_other() {
        let context = tempfile::tempdir().unwrap();
        fs::write(context.path().join("usr"), "text").unwrap();
        fs::create_dir(context.path().join("d")).unwrap();
        let opened = Context::open(context.path()).unwrap();
        let mut tree = image();
        let mut try_copy = |source: &str, to: &str| {
            let copy = Copy::new(source.to_owned(), to.to_owned());
            opened.copy_into(&mut tree, &copy, Owner::default())
        };
        let error = try_copy("usr", "/").unwrap_err();
        assert_eq!(
            error.to_string(),
            "can't put a file at /usr: a directory is there"
        );
        try_copy("usr", "/file").unwrap();
        let error = try_copy("d", "/file").unwrap_err();
        assert!(error.to_string().ends_with("no directory"), "{error}");
        let error = try_copy("usr", "/file/x").unwrap_err();
        assert!(error.to_string().contains("/file/x"), "{error}");
    }
}
