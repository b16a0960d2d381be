use std::io::Read;

use cpio::newc::{Entry, Reader};
use proptest::prelude::*;

use super::*;

/// Returns the entries of an archive, without the trailer, and their content.
fn entries(archive: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut rest = archive;
    let mut entries = Vec::new();
    loop {
        let mut reader = Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return entries;
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        let entry = reader.entry().clone();
        rest = reader.finish().unwrap();
        entries.push((entry, content));
    }
}

#[test]
fn nodes_come_out_as_they_went_in() {
    let mut tree = Tree::default();
    tree.char_device("dev/console", 0o600, 5, 1);
    tree.directory("tmp", 0o1777);
    tree.file("init", 0o755, "agent");
    tree.symlink("bin/sh", "/bin/busybox");
    let entries = entries(&tree.to_cpio().unwrap());
    let summary: Vec<_> = entries
        .iter()
        .map(|(entry, content)| (entry.name(), entry.mode(), content.as_slice()))
        .collect();
    let expected: [(&str, u32, &[u8]); 6] = [
        ("bin", 0o040_755, b""),
        ("bin/sh", 0o120_777, b"/bin/busybox"),
        ("dev", 0o040_755, b""),
        ("dev/console", 0o020_600, b""),
        ("init", 0o100_755, b"agent"),
        ("tmp", 0o041_777, b""),
    ];
    assert_eq!(summary, expected);
    assert_eq!(
        (entries[3].0.rdev_major(), entries[3].0.rdev_minor()),
        (5, 1)
    );
}

#[test]
fn a_directory_keeps_its_mode_whether_it_or_its_content_came_first() {
    let mut before = Tree::default();
    before.directory("root", 0o700);
    before.file("root/x", 0o644, "");
    let mut after = Tree::default();
    after.file("root/x", 0o644, "");
    after.directory("root", 0o700);
    assert_eq!(before.to_cpio().unwrap(), after.to_cpio().unwrap());
    assert_eq!(entries(&before.to_cpio().unwrap())[0].0.mode(), 0o040_700);
}

proptest! {
    #[test]
    fn archives_are_reproducible_and_parents_come_first(
        files in prop::collection::btree_map(
            "[a-c-]{1,2}(/[a-c.]{1,2}x){0,3}f",
            prop::collection::vec(any::<u8>(), 0..9),
            0..20,
        ),
    ) {
        let mut forward = Tree::default();
        files.iter().for_each(|(path, bytes)| forward.file(path, 0o644, bytes.clone()));
        let mut backward = Tree::default();
        files.iter().rev().for_each(|(path, bytes)| backward.file(path, 0o644, bytes.clone()));
        let archive = forward.to_cpio().unwrap();
        prop_assert_eq!(&archive, &backward.to_cpio().unwrap());

        let entries = entries(&archive);
        let mut seen = Vec::new();
        for (inode, (entry, content)) in (1..).zip(&entries) {
            prop_assert_eq!(entry.ino(), inode);
            prop_assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            if let Some((parent, _)) = entry.name().rsplit_once('/') {
                prop_assert!(seen.contains(&parent));
            }
            if let Some(expected) = files.get(entry.name()) {
                prop_assert_eq!(content, expected);
            }
            seen.push(entry.name());
        }
        prop_assert!(files.keys().all(|path| seen.contains(&path.as_str())));
    }
}
