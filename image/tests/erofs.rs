//! Images as erofs-utils and Linux see them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
extern crate ironclaw_test_harness;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ironclaw_image::erofs;
use ironclaw_image::tree::{
    Content, DeviceNumber, Extent, FileTree, Kind, Metadata, Mtime, Node, Source, Xattrs,
};
use ironclaw_test_harness::skipped;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

/// A sparse file's size.
const SPARSE: u64 = 5 << 30;
const DATA: u32 = 3 << 20;

fn data() -> Vec<u8> {
    (0..DATA / 4)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect()
}

/// Writes an image of one file of each kind, and of many.
fn write(directory: &Path) -> std::path::PathBuf {
    let source = directory.join("data");
    fs::write(&source, data()).unwrap();
    let mut tree = FileTree::new();
    let source = Source::Open(Arc::new(File::open(source).unwrap()));
    let source = tree.add_source(source).unwrap();
    let root = tree.root();
    let xattrs: Xattrs = [
        (
            &b"security.capability"[..],
            &b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
        ),
        (b"user.note", b"text"),
        (b"trusted.overlay.opaque", b"y"),
    ]
    .into_iter()
    .map(|(name, value)| (name.into(), value.into()))
    .collect();
    let metadata = Metadata {
        mode: 0o4755,
        uid: 70_000,
        gid: 5,
        mtime: Mtime {
            seconds: -5,
            nanoseconds: 7,
        },
        xattrs: Some(Box::new(xattrs)),
    };
    let plain = || Metadata::of_mode(0o644);
    let file = |content, metadata| Node {
        metadata,
        kind: Kind::File(content),
    };
    let whole = Content::whole(source, 5, u64::from(DATA) - 5);
    let large = tree.insert(root, b"large", file(whole, metadata)).unwrap();
    tree.link(root, b"linked", large).unwrap();
    let small = Content::whole(source, 0, 100);
    tree.insert(root, b"small", file(small, plain())).unwrap();
    tree.insert(root, b"empty", file(Content::default(), plain()))
        .unwrap();
    let extent = |offset| Extent {
        offset,
        length: 10,
        source,
        position: 0,
    };
    let sparse = Content::sparse(SPARSE, vec![extent(1000), extent(SPARSE - 10)]).unwrap();
    tree.insert(root, b"sparse", file(sparse, plain())).unwrap();
    for (name, kind) in [
        (
            &b"symlink"[..],
            Kind::Symlink((*b"../../etc/passwd").into()),
        ),
        (b"long", Kind::Symlink(vec![b'x'; 4090].into())),
        (b"null", Kind::CharDevice(DeviceNumber::new(1, 3).unwrap())),
        (
            b"disk",
            Kind::BlockDevice(DeviceNumber::new(259, 70_000).unwrap()),
        ),
        (b"pipe", Kind::Fifo),
        (b"caf\xe9\n", Kind::Socket),
    ] {
        tree.insert(
            root,
            name,
            Node {
                metadata: plain(),
                kind,
            },
        )
        .unwrap();
    }
    let many = tree
        .insert(root, b"many", Node::directory(Metadata::of_mode(0o1777)))
        .unwrap();
    for number in 0..3000 {
        let name = format!("{number:040}");
        tree.insert(
            many,
            name.as_bytes(),
            file(Content::whole(source, number, number), plain()),
        )
        .unwrap();
    }
    let image = directory.join("image");
    erofs::write(&tree, &mut File::create(&image).unwrap()).unwrap();
    image
}

#[test]
fn erofs_utils_find_nothing_wrong_with_an_image() {
    let directory = tempfile::tempdir().unwrap();
    let Ok(fsck) = which::which("fsck.erofs") else {
        return skipped("fsck.erofs (erofs-utils) is not installed");
    };
    let checked = Command::new(fsck)
        .arg("--extract")
        .arg(write(directory.path()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{text}");
}

/// Unmounts when it is dropped.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn linux_reads_an_image_as_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    if !known.contains("\terofs\n") {
        return skipped("this kernel has no erofs");
    }
    let target = directory.path().join("mounted");
    fs::create_dir(&target).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "erofs", "-o", "loop,ro"])
        .args([&write(directory.path()), &target])
        .output();
    let mount = mount.unwrap();
    if !mount.status.success() {
        let text = String::from_utf8_lossy(&mount.stderr).into_owned();
        assert!(!text.contains("wrong fs type"), "{text}");
        return skipped("no file system can be mounted from a file here (root only)");
    }
    let _mount = Mount(&target);
    let of = |name: &str| target.join(name);
    let large = of("large").metadata().unwrap();
    assert_eq!(
        (large.mode(), large.uid(), large.gid()),
        (0o104_755, 70_000, 5)
    );
    assert_eq!(
        (large.mtime(), large.mtime_nsec(), large.nlink()),
        (-5, 7, 2)
    );
    assert_eq!(large.ino(), of("linked").metadata().unwrap().ino());
    assert_eq!(fs::read(of("large")).unwrap(), data()[5..]);
    assert_eq!(fs::read(of("small")).unwrap(), data()[..100]);
    assert_eq!(fs::read(of("empty")).unwrap(), b"");
    assert_eq!(
        fs::read_link(of("symlink")).unwrap(),
        Path::new("../../etc/passwd")
    );
    assert_eq!(fs::read_link(of("long")).unwrap().as_os_str().len(), 4090);
    let disk = of("disk").symlink_metadata().unwrap();
    assert!(disk.file_type().is_block_device());
    let (major, minor) = (
        rustix::fs::major(disk.rdev()),
        rustix::fs::minor(disk.rdev()),
    );
    assert_eq!((major, minor), (259, 70_000));
    assert!(
        of("null")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(of("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    for (name, value) in [
        ("user.note", Some(&b"text"[..])),
        ("trusted.overlay.opaque", None),
    ] {
        let mut buffer = [0; 100];
        let found = rustix::fs::getxattr(of("large"), name, &mut buffer).ok();
        assert_eq!(found.map(|length| &buffer[..length]), value, "{name}");
    }
    let mut capability = [0; 100];
    let length = rustix::fs::getxattr(of("large"), "security.capability", &mut capability);
    assert_eq!(length, Ok(20));

    let sparse = File::open(of("sparse")).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), SPARSE);
    for (offset, expected) in [
        (990, [&[0; 10][..], &data()[..10]].concat()),
        (SPARSE - 10, data()[..10].to_vec()),
        (1 << 31, vec![0; 20]),
    ] {
        let mut buffer = vec![7; expected.len()];
        std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut buffer, offset).unwrap();
        assert_eq!(buffer, expected, "{offset}");
    }
    let names: Vec<_> = fs::read_dir(of("many"))
        .unwrap()
        .map(|it| it.unwrap())
        .collect();
    assert_eq!(names.len(), 3000);
    for number in [0, 1, 2999] {
        let path = of("many").join(format!("{number:040}"));
        assert_eq!(fs::read(path).unwrap(), data()[number..2 * number]);
    }
}
