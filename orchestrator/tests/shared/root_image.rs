//! An image of a root for guests of a template, with the programs of its initramfs.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_orchestrator::template::tree::{
    Children, Content, FileTree, Kind, Metadata, Node, Source,
};
use ironclaw_orchestrator::template::{Template, erofs};

/// The content of `/srv/file` in the image, and of the other files there.
pub(crate) const FILE: &str = "of the image\n";

/// Makes an image with the programs of the template's initramfs.
pub(crate) fn make(template: &Template, directory: &Path) -> PathBuf {
    let mut tree = initramfs(template.initramfs().unwrap());
    let srv = tree.resolve(b"srv").unwrap();
    for name in [&b"hidden"[..], b"tree", b"plain"] {
        let node = Node::directory(Metadata::of_mode(0o755));
        tree.insert(srv, name, node).unwrap();
    }
    let file = directory.join("file");
    fs::write(&file, FILE).unwrap();
    let opened = Source::Open(Arc::new(File::open(&file).unwrap()));
    let source = tree.add_source(opened).unwrap();
    let names: [&[u8]; 9] = [
        b"file",
        b"gone",
        b"linked",
        b"touched",
        b"opened",
        b"turned",
        b"hidden/a",
        b"hidden/b",
        b"tree/x",
    ];
    for name in names {
        let node = Node {
            metadata: Metadata::of_mode(0o644),
            kind: Kind::File(Content::whole(source, 0, FILE.len() as u64)),
        };
        let (directory, name) = match name.iter().position(|byte| *byte == b'/') {
            Some(at) => (tree.child(srv, &name[..at]).unwrap(), &name[at + 1..]),
            None => (srv, name),
        };
        tree.insert(directory, name, node).unwrap();
    }
    let image = directory.join("image");
    let mut out = BufWriter::new(File::create(&image).unwrap());
    erofs::write(&tree, &mut out).unwrap();
    out.flush().unwrap();
    image
}

/// Reads a newc cpio archive, without the agent and the modules.
fn initramfs(path: &Path) -> FileTree {
    let bytes = fs::read(path).unwrap();
    let mut tree = FileTree::new();
    let source = Source::Open(Arc::new(File::open(path).unwrap()));
    let source = tree.add_source(source).unwrap();
    let mut at = 0;
    loop {
        let field = |index: usize| {
            let start = at + 6 + 8 * index;
            let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let [size, name_size] = [field(6), field(11)].map(|size| usize::try_from(size).unwrap());
        let mode = u16::try_from(field(1)).unwrap();
        let name = &bytes[at + 110..at + 110 + name_size - 1];
        let content = (at + 110 + name_size).next_multiple_of(4);
        let end = content + size;
        at = end.next_multiple_of(4);
        if name == b"TRAILER!!!" {
            return tree;
        }
        if name.is_empty() || name == b"." || name == b"init" || name.starts_with(b"lib/modules") {
            continue;
        }
        let cut = name.iter().rposition(|byte| *byte == b'/');
        let (above, name) = cut.map_or((&b""[..], name), |at| (&name[..at], &name[at + 1..]));
        let kind = match mode & 0o170_000 {
            0o040_000 => Kind::Directory(Children::new()),
            0o100_000 => Kind::File(Content::whole(source, content as u64, size as u64)),
            0o120_000 => Kind::Symlink(bytes[content..end].into()),
            _device => continue,
        };
        let directory = tree.resolve(above).unwrap();
        let metadata = Metadata::of_mode(mode & 0o7777);
        tree.insert(directory, name, Node { metadata, kind })
            .unwrap();
    }
}
