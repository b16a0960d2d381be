use std::fs::File;
use std::sync::Arc;

use super::*;

fn file() -> Node {
    Node {
        metadata: Metadata::of_mode(0o644),
        kind: Kind::File(Content::default()),
    }
}

fn symlink(target: &[u8]) -> Node {
    Node {
        metadata: Metadata::of_mode(0o777),
        kind: Kind::Symlink(target.into()),
    }
}

fn directory() -> Node {
    Node::directory(Metadata::of_mode(0o755))
}

#[test]
fn no_link_leads_out_of_the_tree() {
    let mut tree = FileTree::new();
    let root = tree.root();
    let etc = tree.insert(root, b"etc", directory()).unwrap();
    let passwd = tree.insert(etc, b"passwd", file()).unwrap();
    for (name, target) in [
        (&b"up"[..], &b"../../../../etc"[..]),
        (b"absolute", b"/etc"),
        (b"twice", b"up/../absolute/"),
    ] {
        tree.insert(root, name, symlink(target)).unwrap();
        let path = [name, b"/passwd"].concat();
        assert_eq!(tree.resolve(&path), Ok(passwd), "{target:?}");
        assert_eq!(tree.resolve(name), Ok(etc));
    }
    assert_eq!(tree.resolve(b"../../etc//./passwd"), Ok(passwd));
    assert_eq!(tree.resolve(b"/"), Ok(root));
}

#[test]
fn circles_of_links_and_files_in_the_place_of_directories_end_a_path() {
    let mut tree = FileTree::new();
    let root = tree.root();
    tree.insert(root, b"a", symlink(b"b")).unwrap();
    tree.insert(root, b"b", symlink(b"/a")).unwrap();
    tree.insert(root, b"f", file()).unwrap();
    assert_eq!(tree.resolve(b"a/x"), Err(ResolveError::TooManySymlinks));
    assert_eq!(tree.resolve(b"f/x"), Err(ResolveError::NotDirectory));
    assert_eq!(tree.resolve(b"f/"), Err(ResolveError::NotDirectory));
    let missing = ResolveError::Missing {
        directory: root,
        name: (*b"none").into(),
    };
    assert_eq!(tree.resolve(b"none/x"), Err(missing));
}

#[test]
fn names_that_no_directory_can_have_are_refused() {
    let mut tree = FileTree::new();
    let root = tree.root();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        let error = tree.insert(root, name, file()).unwrap_err();
        assert!(matches!(error, TreeError::BadName { .. }), "{name:?}");
    }
    assert!(tree.is_empty());
    tree.insert(root, b"\xff\n", file()).unwrap();
    tree.insert(root, &[b'x'; 255], file()).unwrap();
    let child = tree.child(root, b"\xff\n").unwrap();
    assert_eq!(
        tree.insert(child, b"x", file()),
        Err(TreeError::NotDirectory)
    );
    assert_eq!(tree.link(root, b"l", root), Err(TreeError::LinkToDirectory));
}

#[test]
fn extents_out_of_order_or_out_of_the_file_are_refused() {
    let extent = |offset, length| Extent {
        offset,
        length,
        source: SourceId(0),
        position: 0,
    };
    for extents in [
        vec![extent(0, 5), extent(4, 2)],
        vec![extent(6, 2), extent(0, 2)],
        vec![extent(8, 3)],
        vec![extent(u64::MAX, 2)],
    ] {
        assert_eq!(Content::sparse(10, extents), None);
    }
    let content = Content::sparse(10, vec![extent(1, 2), extent(3, 0), extent(4, 6)]).unwrap();
    assert!(content.has_holes());
    assert_eq!(content.overlapping(3, 1).count(), 0);
    assert_eq!(content.overlapping(2, 3).count(), 2);
    assert_eq!(content.overlapping(9, 100).count(), 1);
}

#[test]
fn holes_read_as_zeros_and_a_file_that_changed_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("source");
    std::fs::write(&path, "0123456789").unwrap();
    let mut tree = FileTree::new();
    let open = Source::Open(Arc::new(File::open(&path).unwrap()));
    let open = tree.add_source(open).unwrap();
    let named = Source::at(path.clone(), &path.metadata().unwrap());
    let named = tree.add_source(named).unwrap();
    let extent = |offset, length, source, position| Extent {
        offset,
        length,
        source,
        position,
    };
    let extents = vec![extent(1, 2, open, 4), extent(5, 3, named, 0)];
    let content = Content::sparse(9, extents).unwrap();
    let mut buffer = [7; 10];
    let mut reader = Reader::new(&tree);
    reader.read_at(&content, 0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"\x0045\0\x00012\0\0");
    reader.read_at(&content, 6, &mut buffer[..3]).unwrap();
    assert_eq!(&buffer[..3], b"12\0");

    std::fs::write(&path, "0123456789+").unwrap();
    let error = Reader::new(&tree).read_at(&content, 5, &mut buffer);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("was changed while it was read"), "{text}");
    // An open one is cut off.
    let behind = Content::whole(open, 8, 5);
    assert!(
        Reader::new(&tree)
            .read_at(&behind, 0, &mut buffer[..5])
            .is_err()
    );
}
