use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::format::BLOCK;
use super::plan::Plan;
use super::reader::{expected, read};
use super::*;
use crate::tree::{
    Content, DeviceNumber, Extent, FileTree, Kind, Metadata, Mtime, Node, Source, SourceId,
    TreeError, Xattrs,
};

/// A file with other bytes at each position.
fn source() -> File {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..SOURCE / 4)
        .flat_map(|n: u32| (n.wrapping_mul(0x9e37_79b9) | 1).to_le_bytes())
        .collect();
    file.write_all(&bytes).unwrap();
    file
}

const SOURCE: u32 = 256 << 10;

fn tree() -> (FileTree, SourceId) {
    let mut tree = FileTree::new();
    let source = tree.add_source(Source::Open(Arc::new(source()))).unwrap();
    (tree, source)
}

fn image(tree: &FileTree) -> Vec<u8> {
    let mut image = Vec::new();
    let written = write(tree, &mut image).unwrap();
    assert_eq!(written.bytes, image.len() as u64);
    image
}

fn node(kind: Kind) -> Node {
    let metadata = Metadata::of_mode(0o640);
    Node { metadata, kind }
}

/// What a property test puts into a tree.
#[derive(Debug, Clone)]
struct Wanted {
    metadata: Metadata,
    what: What,
    /// Chooses the directory, or what a link leads to.
    at: usize,
    name: Vec<u8>,
}

#[derive(Debug, Clone)]
enum What {
    Directory,
    File { position: u64, size: u64 },
    Sparse(u64, Vec<(u64, u64)>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    HardLink,
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let name = prop_oneof![
        3 => "(user|trusted|security)\\.[a-z.]{1,200}",
        1 => Just("system.posix_acl_access".to_owned()),
        1 => Just("trusted.overlay.opaque".to_owned()),
        1 => "[a-z]{1,9}",
    ];
    let xattrs = btree_map(name, vec(any::<u8>(), 0..600), 0..4);
    let time = (any::<i64>(), 0..1_000_000_000_u32);
    let owner = (any::<u32>(), any::<u32>());
    (0..0o10_000_u16, owner, time, xattrs).prop_map(|(mode, (uid, gid), time, xattrs)| {
        let pairs = xattrs.into_iter();
        let xattrs: Xattrs = pairs
            .map(|(k, v)| (k.into_bytes().into(), v.into()))
            .collect();
        Metadata {
            mode,
            uid,
            gid,
            mtime: Mtime {
                seconds: time.0,
                nanoseconds: time.1,
            },
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
        }
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let size = prop_oneof![0..100_u64, 3900..4200_u64, 8100..8300_u64, 0..40_000_u64];
    let extents = vec((0..20_000_u64, 1..9000_u64), 0..5);
    let what = prop_oneof![
        4 => Just(What::Directory),
        6 => (0..4096_u64, size).prop_map(|(position, size)| What::File { position, size }),
        2 => (0..90_000_u64, extents).prop_map(|(size, extents)| What::Sparse(size, extents)),
        2 => vec(1..=255_u8, 1..4095).prop_map(What::Symlink),
        1 => (0..1_u32 << 12, 0..1_u32 << 20).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => (0..1_u32 << 12, 0..1_u32 << 20).prop_map(|(major, minor)| What::Block(major, minor)),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        2 => Just(What::HardLink),
    ];
    let byte = any::<u8>().prop_filter("no name has it", |byte| !matches!(byte, 0 | b'/'));
    let name = prop_oneof![3 => vec(byte.clone(), 1..12), 1 => vec(byte, 200..=255)];
    (metadata(), what, any::<prop::sample::Index>(), name).prop_map(|(metadata, what, at, name)| {
        Wanted {
            metadata,
            what,
            at: at.index(1 << 20),
            name,
        }
    })
}

fn build(tree: &mut FileTree, source: SourceId, wanted: Vec<Wanted>) {
    let (mut directories, mut others) = (vec![tree.root()], Vec::new());
    for (
        number,
        Wanted {
            metadata,
            what,
            at,
            name,
        },
    ) in wanted.into_iter().enumerate()
    {
        let directory = directories[at % directories.len()];
        if tree.child(directory, &name).is_some() {
            continue;
        }
        let kind = match what {
            What::Directory => Kind::Directory(crate::tree::Children::new()),
            What::File { position, size } => Kind::File(Content::whole(source, position, size)),
            What::Sparse(size, extents) => {
                let mut end = 0;
                let extents = extents.into_iter().map(|(gap, length)| {
                    let offset = end + gap;
                    end = offset + length;
                    Extent {
                        offset,
                        length,
                        source,
                        position: 7,
                    }
                });
                let extents: Vec<_> = extents.filter(|it| it.offset + it.length <= size).collect();
                Kind::File(Content::sparse(size, extents).unwrap())
            }
            What::Symlink(target) => Kind::Symlink(target.into()),
            What::Char(a, b) => Kind::CharDevice(DeviceNumber::new(a, b).unwrap()),
            What::Block(a, b) => Kind::BlockDevice(DeviceNumber::new(a, b).unwrap()),
            What::Fifo => Kind::Fifo,
            What::Socket => Kind::Socket,
            What::HardLink => {
                if let Some(target) = others.get(number % others.len().max(1)) {
                    match tree.link(directory, &name, *target) {
                        Ok(()) | Err(TreeError::BadName { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                continue;
            }
        };
        let is_directory = matches!(kind, Kind::Directory(_));
        match tree.insert(directory, &name, Node { metadata, kind }) {
            Ok(id) if is_directory => directories.push(id),
            Ok(id) => others.push(id),
            Err(TreeError::BadName { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_image_holds_what_its_tree_does(wanted in vec(wanted(), 0..60)) {
        let (mut tree, source) = tree();
        build(&mut tree, source, wanted);
        let image = image(&tree);
        prop_assert_eq!(read(&image), expected(&tree));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        let opened = open(&Arc::new(file)).unwrap();
        prop_assert_eq!(expected(&opened), expected(&tree));
    }

    #[test]
    fn a_damaged_image_is_an_error_or_a_tree_and_no_panic(
        wanted in vec(wanted(), 0..20),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut tree, source) = tree();
        build(&mut tree, source, wanted);
        let mut image = image(&tree);
        for (at, byte) in damage {
            // Where the inodes are.
            let at = 1024 + at.index((image.len() - 1024).min(8192));
            image[at] = byte;
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        drop(open(&Arc::new(file)));
    }
}

#[test]
fn an_image_of_another_program_is_refused() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0; 8192]).unwrap();
    assert!(matches!(
        open(&Arc::new(file)),
        Err(OpenImageError::Foreign(_))
    ));
}

#[test]
fn equal_trees_make_equal_images() {
    let make = || {
        let (mut tree, source) = tree();
        let (root, content) = (tree.root(), Content::whole(source, 3, 9000));
        tree.insert(root, b"file", node(Kind::File(content)))
            .unwrap();
        // Nodes that no name leads to any more are not in it.
        tree.insert(root, b"gone", node(Kind::Fifo)).unwrap();
        tree.remove(root, b"gone");
        image(&tree)
    };
    assert_eq!(make(), make());
    assert_eq!(read(&make()).len(), 2);
}

#[test]
fn directories_of_many_names_are_read_back() {
    for count in [0, 1, 170, 171, 172, 20_000] {
        let (mut tree, _) = tree();
        let root = tree.root();
        for number in 0..count {
            let name = format!("{number:0width$}", width = 12 + number % 40);
            tree.insert(root, name.as_bytes(), node(Kind::Fifo))
                .unwrap();
        }
        assert_eq!(read(&image(&tree)), expected(&tree), "{count}");
    }
}

#[test]
fn an_image_over_its_limit_is_refused_before_a_byte_is_written() {
    let (tree, _) = tree();
    let bytes = image(&tree).len() as u64;
    let mut out = Vec::new();
    let refused = write_within(&tree, &mut out, bytes - 1).unwrap_err();
    assert!(refused.to_string().contains("`root_disk_mib`"), "{refused}");
    assert!(out.is_empty());
    assert_eq!(write_within(&tree, &mut out, bytes).unwrap().bytes, bytes);
}

#[test]
fn a_large_file_with_holes_takes_the_room_of_its_data() {
    let (mut tree, source) = tree();
    let (root, size) = (tree.root(), 1 << 40);
    let extent = |offset| Extent {
        offset,
        length: 5000,
        source,
        position: 0,
    };
    let extents = vec![extent(0), extent(size / 2), extent(size - 5000)];
    let content = Content::sparse(size, extents).unwrap();
    tree.insert(root, b"lastlog", node(Kind::File(content)))
        .unwrap();
    let plan = Plan::new(&tree).unwrap();
    assert!(plan.blocks() * BLOCK < 256 << 20, "{}", plan.blocks());
}

#[test]
fn what_the_format_has_no_room_for_is_refused_with_its_path() {
    let (mut tree, source) = tree();
    let root = tree.root();
    let directory = tree.insert(root, b"a", Node::directory(Metadata::of_mode(0o755)));
    let mut file = node(Kind::Fifo);
    let value = |n: u8| {
        (
            format!("user.{n}").into_bytes().into(),
            vec![n; 60_000].into(),
        )
    };
    file.metadata.xattrs = Some(Box::new((0..5).map(value).collect()));
    tree.insert(directory.unwrap(), b"b\n", file).unwrap();
    let error = write(&tree, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "/a/b  has too many extended attributes");

    tree.remove(root, b"a");
    let content = Content::whole(source, u64::from(SOURCE) - 10, 11);
    tree.insert(root, b"short", node(Kind::File(content)))
        .unwrap();
    let error = write(&tree, &mut Vec::new()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("can't read the content of /short: "),
        "{error}"
    );
}
