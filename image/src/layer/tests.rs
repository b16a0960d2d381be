use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::erofs::reader::{Entries, expected};
use crate::tree::FileTree;

/// A layer that is being made.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry whose name the builder does not look at.
    fn add(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(EntryType::Regular, name.as_bytes(), b"", content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.add(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Link, name.as_bytes(), target.as_bytes(), b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn merged_of(layers: Vec<Vec<u8>>, limits: Limits) -> Result<FileTree, LayerError> {
    let mut merge = Merge::new(limits);
    for (number, bytes) in layers.into_iter().enumerate() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        merge.apply(&format!("layer-{number}"), Arc::new(file))?;
    }
    Ok(merge.into_tree())
}

fn merged(layers: impl IntoIterator<Item = Layer>) -> Result<FileTree, LayerError> {
    let layers = layers.into_iter().map(Layer::bytes);
    merged_of(layers.collect(), Limits::default())
}

fn files(layers: impl IntoIterator<Item = Layer>) -> Entries {
    expected(&merged(layers).unwrap())
}

/// The paths of what layers make, and the contents of files.
fn shape(layers: impl IntoIterator<Item = Layer>) -> Vec<(String, String)> {
    let entries = files(layers).into_iter().skip(1);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    entries
        .map(|(path, entry)| (text(path), text(entry.content)))
        .collect()
}

fn paths(layers: impl IntoIterator<Item = Layer>) -> Vec<String> {
    shape(layers).into_iter().map(|(path, _)| path).collect()
}

fn refusal(layers: impl IntoIterator<Item = Layer>) -> String {
    merged(layers).unwrap_err().to_string()
}

#[test]
fn an_upper_layer_replaces_files_and_adds_to_directories() {
    let lower = Layer::new()
        .directory("etc/")
        .file("etc/a", "old")
        .file("etc/b", "b");
    let upper = Layer::new()
        .file("./etc/a", "new")
        .file("/etc/c/d", "absolute");
    let expected = [
        ("/etc", ""),
        ("/etc/a", "new"),
        ("/etc/b", "b"),
        ("/etc/c", ""),
        ("/etc/c/d", "absolute"),
    ];
    let expected = expected.map(|(path, content)| (path.to_owned(), content.to_owned()));
    assert_eq!(shape([lower, upper]), expected);
}

#[test]
fn a_whiteout_hides_what_lower_layers_have_alone() {
    let lower = || {
        Layer::new()
            .file("d/a", "1")
            .file("d/b", "2")
            .file("e/f/g", "3")
    };
    let upper = Layer::new()
        .file("d/.wh.a", "")
        .file("d/.wh.none", "")
        .file("none/.wh.x", "");
    assert_eq!(
        paths([lower(), upper]),
        ["/d", "/d/b", "/e", "/e/f", "/e/f/g"]
    );
    // Its own files stay, whichever comes first.
    for upper in [
        Layer::new().file("d/a", "new").file("d/.wh.a", ""),
        Layer::new().file("d/.wh.a", "").file("d/a", "new"),
    ] {
        let shape = shape([lower(), upper]);
        assert!(
            shape.contains(&("/d/a".to_owned(), "new".to_owned())),
            "{shape:?}"
        );
    }
    let upper = Layer::new().file(".wh.e", "").file("e/new", "");
    assert_eq!(
        paths([lower(), upper]),
        ["/d", "/d/a", "/d/b", "/e", "/e/new"]
    );
    let upper = Layer::new().file("e/f/new", "").file(".wh.e", "");
    let kept = ["/d", "/d/a", "/d/b", "/e", "/e/f", "/e/f/new"];
    assert_eq!(paths([lower(), upper]), kept);
    // The one below an upper one hides nothing of it.
    let layers = [
        lower(),
        Layer::new().file(".wh.d", ""),
        Layer::new().file("d/a", ""),
    ];
    assert_eq!(paths(layers), ["/d", "/d/a", "/e", "/e/f", "/e/f/g"]);
}

#[test]
fn an_opaque_whiteout_hides_all_of_a_directory_but_what_its_layer_brings() {
    let lower = || {
        Layer::new()
            .file("d/a", "")
            .file("d/e/b", "")
            .file("d/e/c", "")
            .file("x", "")
    };
    for upper in [
        Layer::new().file("d/.wh..wh..opq", "").file("d/e/new", ""),
        Layer::new().file("d/e/new", "").file("d/.wh..wh..opq", ""),
    ] {
        assert_eq!(paths([lower(), upper]), ["/d", "/d/e", "/d/e/new", "/x"]);
    }
    // A link to a lower file is of the layer that brings it.
    let upper = Layer::new()
        .hard_link("d/linked", "d/a")
        .file("d/.wh..wh..opq", "");
    assert_eq!(paths([lower(), upper]), ["/d", "/d/linked", "/x"]);
    let upper = Layer::new()
        .file(".wh..wh..opq", "")
        .file(".wh..wh.plnk", "");
    assert_eq!(paths([lower(), upper]), Vec::<String>::new());
}

#[test]
fn a_file_takes_the_place_of_a_directory_and_the_reverse() {
    let lower = || Layer::new().file("a/b", "").file("c", "").symlink("l", "a");
    let upper = Layer::new().file("a", "file").directory("c").directory("l");
    assert_eq!(paths([lower(), upper]), ["/a", "/c", "/l"]);
    let entries = files([lower(), Layer::new().directory("l").file("l/own", "")]);
    assert_eq!(entries[&b"/l"[..]].mode >> 12, 0o4);
    assert!(entries.contains_key(&b"/a/b"[..]) && !entries.contains_key(&b"/a/own"[..]));
    let text = refusal([lower(), Layer::new().file("c/d", "")]);
    assert!(text.starts_with("layer layer-1, entry \"c/d\": "), "{text}");
}

#[test]
fn the_last_of_equal_entries_counts() {
    let layer = Layer::new()
        .file("a", "1")
        .directory("a")
        .file("a/b", "")
        .file("a", "2");
    assert_eq!(shape([layer]), [("/a".to_owned(), "2".to_owned())]);
}

#[test]
fn paths_go_through_links_of_the_image_and_never_out_of_it() {
    let lower = || {
        Layer::new()
            .directory("usr/lib")
            .symlink("lib", "../../../usr/lib")
    };
    let entries = files([lower(), Layer::new().file("lib/x", "content")]);
    assert_eq!(entries[&b"/usr/lib/x"[..]].content, b"content");
    let entries = files([
        lower().symlink("out", "/tmp/../.."),
        Layer::new().file("out/x", ""),
    ]);
    assert!(entries.contains_key(&b"/tmp"[..]) && entries.contains_key(&b"/x"[..]));
    // Where a link leads to nothing, its target is made.
    let entries = files([Layer::new().symlink("var", "/a/b").file("var/x", "")]);
    assert!(entries.contains_key(&b"/a/b/x"[..]));

    for (layer, said) in [
        (Layer::new().file("../x", ""), "`..`"),
        (Layer::new().file("a/../../x", ""), "`..`"),
        (Layer::new().file("x", "").hard_link("y", "../x"), "`..`"),
        (
            Layer::new().hard_link("y", "/etc/passwd"),
            "it does not exist",
        ),
        (
            Layer::new().directory("d").hard_link("y", "d"),
            "can't lead to a directory",
        ),
        (
            Layer::new().hard_link("y", "/"),
            "can't lead to a directory",
        ),
        (
            Layer::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", ""),
            "symbolic links",
        ),
        (Layer::new().file(".", ""), "the root has to be a directory"),
        (
            Layer::new().file("a/.wh.", ""),
            "entry \"a/.wh.\": a whiteout has to name a file",
        ),
        (
            Layer::new().file(".wh...", ""),
            "\".wh...\": a whiteout has to name a file",
        ),
        (
            Layer::new().symlink("s", ""),
            "entry \"s\": the target of a symbolic link",
        ),
        (
            Layer::new().add(EntryType::new(b'M'), b"x", b"", b""),
            "no file system has ('M')",
        ),
    ] {
        let existing = Layer::new().directory("a");
        let text = refusal([existing, layer]);
        assert!(
            text.starts_with("layer layer-1, entry ") && text.contains(said),
            "{text}"
        );
    }
}

#[test]
fn hard_links_share_a_file_across_layers() {
    let lower = Layer::new().file("a", "content").symlink("s", "nowhere");
    let upper = Layer::new()
        .hard_link("d/b", "./a")
        .hard_link("t", "s")
        .file(".wh.a", "");
    let entries = files([lower, upper]);
    assert_eq!(entries[&b"/d/b"[..]].content, b"content");
    assert_eq!(entries[&b"/t"[..]].same_as, b"/s");
    assert!(!entries.contains_key(&b"/a"[..]));
}

#[test]
fn devices_and_pipes_are_data() {
    let kinds = [EntryType::Char, EntryType::Block, EntryType::Fifo];
    let names = [&b"null"[..], b"sd", b"pipe"];
    let layer = kinds
        .into_iter()
        .zip(names)
        .fold(Layer::new(), |layer, (kind, name)| {
            layer.add(kind, name, b"", b"")
        });
    let entries = files([layer]);
    let kinds = names.map(|name| entries[&[b"/", name].concat()].mode >> 12);
    assert_eq!(kinds, [0o2, 0o6, 0o1]);
    assert_eq!(entries[&b"/null"[..]].device, 0x103);
}

#[test]
fn extended_headers_say_what_a_header_has_no_room_for() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let capability = b"\x01\0\0\x02\n=\0";
    let layer = Layer::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"3000000"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.x", b""),
            ("comment", b"nobody reads it"),
        ])
        .file("short", "content")
        .pax(&[("path", b"caf\xe9/\xff\x01"), ("linkpath", b"\xfe")])
        .symlink("s", "t");
    let entries = files([layer]);
    let entry = &entries[format!("/{long}").as_bytes()];
    assert_eq!(
        (entry.uid, entry.gid, entry.mtime),
        (3_000_000, 2, (-2, 750_000_000))
    );
    assert_eq!(entry.content, b"content");
    assert_eq!(entry.xattrs[&b"security.capability"[..]], capability);
    assert_eq!(entry.xattrs[&b"user.x"[..]], b"");
    assert_eq!(entries[&b"/caf\xe9/\xff\x01"[..]].content, b"\xfe");

    let mut gnu = Layer::new();
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    gnu.0.append_data(&mut header, &long, &b"x"[..]).unwrap();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    gnu.0
        .append_link(&mut header, "l", "t".repeat(3000))
        .unwrap();
    let entries = files([gnu]);
    assert_eq!(entries[format!("/{long}").as_bytes()].content, b"x");
    assert_eq!(entries[&b"/l"[..]].content, [b't'; 3000]);
}

#[test]
fn maps_of_holes_are_understood_in_each_version() {
    type Records<'a> = &'a [(&'a str, &'a [u8])];
    let versions: [(Records<'_>, &str); 3] = [
        (
            &[
                ("GNU.sparse.size", b"20"),
                ("GNU.sparse.offset", b"2"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"15"),
                ("GNU.sparse.numbytes", b"2"),
            ],
            "abcde",
        ),
        (
            &[("GNU.sparse.size", b"20"), ("GNU.sparse.map", b"2,3,15,2")],
            "abcde",
        ),
        (
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"f"),
                ("GNU.sparse.realsize", b"20"),
            ],
            &format!("{:\0<512}abcde", "2\n2\n3\n15\n2\n"),
        ),
    ];
    for (records, content) in versions {
        let entries = files([Layer::new().pax(records).file("f", content)]);
        let found = &entries[&b"/f"[..]].content;
        assert_eq!(found, b"\0\0abc\0\0\0\0\0\0\0\0\0\0de\0\0\0", "{records:?}");
    }
    for map in [
        &b"2,3,1,2"[..],
        b"2",
        b"0,6",
        b"19,2",
        b"x",
        b"18446744073709551615,1",
    ] {
        let records = [("GNU.sparse.size", &b"20"[..]), ("GNU.sparse.map", map)];
        let text = refusal([Layer::new().pax(&records).file("f", "abcde")]);
        assert!(
            text.contains("holes makes no sense") || text.contains("is none"),
            "{text}"
        );
    }
}

#[test]
fn what_takes_too_much_is_refused() {
    let layer = || {
        let many = (0..50).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), ""));
        let value = [7; 1000];
        many.pax(&[("SCHILY.xattr.user.x", &value)])
            .file("deep/er/still/x", "")
    };
    let check = |change: fn(&mut Limits), said: &str| {
        let mut limits = Limits::default();
        change(&mut limits);
        let error = merged_of(vec![layer().bytes()], limits)
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
    };
    check(
        |it| it.text_bytes = 1000,
        "more than 1000 bytes of names and extended attributes",
    );
    check(|it| it.depth = 3, "directories in one path");
    check(|it| it.path = 14, "directories in one path");
    let size = [
        ("GNU.sparse.size", &b"1099511627777"[..]),
        ("GNU.sparse.map", b""),
    ];
    let size = [size[0], ("GNU.sparse.map", &b"0,0"[..])];
    let text = refusal([Layer::new().pax(&size).file("f", "")]);
    assert!(text.contains("bytes in one file"), "{text}");
    let text = refusal([Layer::new()
        .pax(&[("x", &vec![b'y'; 1 << 20])])
        .file("f", "")]);
    assert!(text.contains("in one extended header"), "{text}");
    let value = vec![0; 65_536];
    let text = refusal([Layer::new()
        .pax(&[("SCHILY.xattr.user.x", &value)])
        .file("f", "")]);
    assert!(
        text.contains("entry \"f\"") || text.contains("an extended attribute"),
        "{text}"
    );
}

#[test]
fn each_refusal_names_the_layer_and_the_entry() {
    let deep = "d/".repeat(300) + "x";
    let long = "n".repeat(256);
    let holes = [("GNU.sparse.size", &b"20"[..]), ("GNU.sparse.map", b"19,2")];
    let large = [
        ("GNU.sparse.size", &b"1099511627777"[..]),
        ("GNU.sparse.map", b"0,0"),
    ];
    let xattr = [("SCHILY.xattr.user.x", &[0; 65_536][..])];
    for (layer, entry) in [
        (Layer::new().file("a/../../x", ""), "a/../../x"),
        (Layer::new().hard_link("out", "../../etc/passwd"), "out"),
        (
            Layer::new().hard_link("absolute", "/etc/passwd"),
            "absolute",
        ),
        (Layer::new().symlink("empty", ""), "empty"),
        (Layer::new().file("file/below", ""), "file/below"),
        (Layer::new().file("dir/.wh.", ""), "dir/.wh."),
        (
            Layer::new().add(EntryType::new(b'M'), b"kind", b"", b""),
            "kind",
        ),
        (
            Layer::new().pax(&[("path", deep.as_bytes())]).file("x", ""),
            &*deep,
        ),
        (
            Layer::new().pax(&[("path", long.as_bytes())]).file("x", ""),
            &*long,
        ),
        (Layer::new().pax(&holes).file("sparse", "abcde"), "sparse"),
        (Layer::new().pax(&large).file("large", ""), "large"),
        (Layer::new().pax(&xattr).file("xattr", ""), "xattr"),
    ] {
        let existing = Layer::new().directory("dir").file("file", "");
        let text = refusal([existing, layer]);
        assert!(
            text.starts_with(&format!("layer layer-1, entry {entry:?}: ")),
            "{text}"
        );
    }
    let many = (0..50).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), ""));
    let limits = Limits {
        entries: 20,
        ..Limits::default()
    };
    let text = merged_of(vec![many.bytes()], limits)
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "layer layer-0, entry \"f20\": the image has more than 20 files"
    );
}

#[test]
fn an_archive_that_is_cut_off_is_refused_and_one_without_its_end_is_not() {
    let bytes = Layer::new()
        .file("a", &"x".repeat(600))
        .file("b", "y")
        .bytes();
    let cut = |length: usize| merged_of(vec![bytes[..length].to_vec()], Limits::default());
    // Header, two blocks, header, one block, two of zeros.
    for length in 1..bytes.len() {
        let is_whole = matches!(length, 1112..=1536 | 2049..=2560 | 3072..);
        assert_eq!(cut(length).is_ok(), is_whole, "{length}");
    }
    let mut damaged = bytes.clone();
    damaged[3] ^= 1;
    let text = merged_of(vec![damaged], Limits::default())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("damaged at byte 0: its header has another checksum"),
        "{text}"
    );
    let text = cut(700).unwrap_err().to_string();
    assert!(
        text.contains("entry \"a\": the archive is damaged at byte 0"),
        "{text}"
    );
}

/// A model of layers: paths of two levels, applied by hand.
#[derive(Debug, Clone)]
enum Action {
    File(u8, u8),
    Whiteout(u8, u8),
    Opaque(u8),
    WhiteoutDirectory(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let pair = (0..3_u8, 0..3_u8);
    prop_oneof![
        4 => pair.clone().prop_map(|(d, f)| Action::File(d, f)),
        2 => pair.prop_map(|(d, f)| Action::Whiteout(d, f)),
        1 => (0..3_u8).prop_map(Action::Opaque),
        1 => (0..3_u8).prop_map(Action::WhiteoutDirectory),
    ]
}

proptest! {
    #[test]
    fn layers_hide_lower_ones_whatever_the_order_of_their_entries(
        layers in vec(vec(action(), 0..8), 1..5)
    ) {
        let mut model = std::collections::BTreeSet::new();
        let mut made = Vec::new();
        for layer in &layers {
            for action in layer {
                match action {
                    Action::Whiteout(d, f) => { model.remove(&(*d, *f)); }
                    Action::Opaque(d) | Action::WhiteoutDirectory(d) => {
                        model.retain(|(other, _)| other != d);
                    }
                    Action::File(..) => {}
                }
            }
            let mut tar = Layer::new();
            for action in layer {
                tar = match action {
                    Action::File(d, f) => {
                        model.insert((*d, *f));
                        tar.file(&format!("{d}/{f}"), "")
                    }
                    Action::Whiteout(d, f) => tar.file(&format!("{d}/.wh.{f}"), ""),
                    Action::Opaque(d) => tar.file(&format!("{d}/.wh..wh..opq"), ""),
                    Action::WhiteoutDirectory(d) => tar.file(&format!(".wh.{d}"), ""),
                };
            }
            made.push(tar);
        }
        let found = paths(made);
        let found: Vec<_> = found.iter().filter(|path| path.matches('/').count() == 2).collect();
        let expected: Vec<_> = model.iter().map(|(d, f)| format!("/{d}/{f}")).collect();
        prop_assert_eq!(found, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn damaged_layers_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let layer = Layer::new()
            .pax(&[("path", b"a/b"), ("SCHILY.xattr.user.x", b"y")])
            .file("x", "content")
            .hard_link("h", "a/b")
            .symlink("s", "a")
            .file("s/.wh.b", "");
        let mut bytes = layer.bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(merged_of(vec![bytes], Limits::default()));
    }
}

/// A layer in a file, as a `File` that nothing else writes.
#[test]
fn content_is_read_from_the_layer_that_has_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&Layer::new().file("a", "content").bytes())
        .unwrap();
    let mut merge = Merge::new(Limits::default());
    merge
        .apply("one", Arc::new(File::open(file.path()).unwrap()))
        .unwrap();
    drop(file);
    let entries = expected(&merge.into_tree());
    assert_eq!(entries[&b"/a"[..]].content, b"content");
}
