//! What differs from a guest's image, as a list and as a layer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use ironclaw_orchestrator::template::Sha256Digest;
use ironclaw_orchestrator::template::layer::{Limits, Merge};
use ironclaw_orchestrator::template::tree::{FileTree, Kind, NodeId, Reader};
use ironclaw_orchestrator::vm::{
    ArchiveReader, ChangeKind, FailureKind, FileKind, GuestError, VmHandle,
};
use libtest_mimic::Trial;
use tokio::io::AsyncWriteExt as _;

use crate::backend::{self, Backend};
use crate::contract::on;
use crate::disk::{Disks, run};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(trial(format!("changes::{}", stringify!($name)), || on(backend::Kind::Qemu, async |backend| {
                $name(backend).await;
            }))),*]
        };
    }
    trials![
        changes_are_listed_and_make_the_same_files_as_a_layer,
        changes_of_a_root_in_memory_are_unknown,
    ]
}

async fn changes_of_a_root_in_memory_are_unknown(backend: &Backend) {
    let vm = backend.launcher.cold_boot("in-memory").await.unwrap();
    let refused = [
        vm.files().changes().await.unwrap_err(),
        vm.files().archive_changes().await.unwrap_err(),
    ];
    for error in refused {
        let GuestError::Failed { kind, message } = error else {
            panic!("{error}");
        };
        assert_eq!(kind, FailureKind::Unsupported);
        assert!(message.contains("in its memory"), "{message}");
    }
    vm.destroy().await.unwrap();
}

/// Writes to the root in each way that an overlay treats in its own.
const CHANGES: &str = r#"
set -e
echo new > /added
ln /added /hard
ln -s nowhere /link
mkfifo /pipe
mknod /null2 c 1 3
dd if=/dev/zero of=/holes bs=1 count=1 seek=3000000 2>/dev/null
dd if=/dev/urandom of=/large bs=1000 count=700 2>/dev/null
mkdir -p /new/deep
echo deep > "/new/deep/$(printf '%0200d' 7)"
echo latin > "/new/$(printf 'caf\351')"
chown 3000000:3000001 /new/deep
chmod 1777 /new
echo changed >> /srv/file
ln /srv/linked /srv/another
rm /srv/gone
chmod 600 /srv/touched
cat /srv/opened > /tmp/same && : >> /srv/opened
rm -r /srv/hidden && mkdir /srv/hidden && echo c > /srv/hidden/c && echo a > /srv/hidden/a
rm -r /srv/tree && echo file > /srv/tree
rm /srv/turned && mkdir /srv/turned
mkdir /srv/plain/sub && rmdir /srv/plain/sub
echo 1 > /srv/.wh.odd
mkdir -p /run/x /dev/shm/y
sync
"#;

const LISTED: [(&str, ChangeKind, FileKind); 24] = {
    use ChangeKind::{Added, Modified, Removed};
    use FileKind as Kind;
    [
        ("/added", Added, Kind::File),
        ("/hard", Added, Kind::File),
        ("/holes", Added, Kind::File),
        ("/large", Added, Kind::File),
        ("/link", Added, Kind::Link),
        ("/new", Added, Kind::Directory),
        ("/new/caf\u{e9}", Added, Kind::File),
        ("/new/deep", Added, Kind::Directory),
        ("/new/deep/7", Added, Kind::File),
        ("/null2", Added, Kind::CharacterDevice),
        ("/pipe", Added, Kind::Fifo),
        ("/srv/.wh.odd", Added, Kind::File),
        ("/srv/another", Added, Kind::File),
        ("/srv/file", Modified, Kind::File),
        ("/srv/gone", Removed, Kind::File),
        ("/srv/hidden", Modified, Kind::Directory),
        ("/srv/hidden/a", Modified, Kind::File),
        ("/srv/hidden/b", Removed, Kind::File),
        ("/srv/hidden/c", Added, Kind::File),
        ("/srv/linked", Modified, Kind::File),
        ("/srv/touched", Modified, Kind::File),
        ("/srv/tree", Modified, Kind::File),
        ("/srv/turned", Modified, Kind::Directory),
        ("/tmp/same", Added, Kind::File),
    ]
};

async fn changes_are_listed_and_make_the_same_files_as_a_layer(backend: &Backend) {
    let disks = Disks::make(backend);
    let vm = disks.launcher.cold_boot("changes").await.unwrap();
    let files = vm.files();
    let listed = files.changes().await.unwrap();
    assert!(listed.is_empty(), "of a guest that did nothing: {listed:?}");
    let layers = tempfile::tempdir().unwrap();
    let base = layers.path().join("base");
    save(files.archive("/").await.unwrap(), &base).await;

    run(&vm, CHANGES).await;
    let capability = b"\x01\0\0\x02\0\x04\n\0\0\0\0\0\0\0\0\0\0\0\0\0";
    files
        .set_attribute("/added", "security.capability", capability)
        .await
        .unwrap();
    files
        .set_attribute("/srv/file", "user.a\n", b"line\nline\0")
        .await
        .unwrap();
    run(&vm, "sync").await;

    let listed = files.changes().await.unwrap();
    let shown = |path: &Path| {
        let bytes = path.as_os_str().as_bytes();
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        text.replace(&"0".repeat(199), "")
    };
    let listed: Vec<_> = listed
        .iter()
        .map(|change| (shown(&change.path), change.kind, change.file))
        .collect();
    let expected = LISTED.map(|(path, kind, file)| (path.to_owned(), kind, file));
    assert_eq!(listed, expected);

    let layer = layers.path().join("layer");
    let omitted = save(files.archive_changes().await.unwrap(), &layer).await;
    assert_eq!(omitted, 1, "the name that means something else in a layer");
    let bytes = std::fs::read(&layer).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(!has(b"trusted.overlay"), "it tells of the overlay itself");
    assert!(
        bytes.len() < 1_500_000,
        "{} bytes, and holes are none",
        bytes.len()
    );
    let after = layers.path().join("after");
    save(files.archive("/").await.unwrap(), &after).await;

    let merged = described(&[&base, &layer]);
    let mut whole = described(&[&after]);
    assert!(
        whole.remove("srv/.wh.odd").is_none(),
        "a marker for the merge"
    );
    let differs = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        let other = other.clone();
        let differs = one
            .iter()
            .filter(move |(path, it)| other.get(*path) != Some(it));
        differs
            .map(|(path, it)| format!("{path}: {it}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(differs(&merged, &whole), differs(&whole, &merged));
    assert!(
        whole["added"].contains("security.capability"),
        "{}",
        whole["added"]
    );
    assert!(
        whole["srv/file"].contains("user.a\n=[108"),
        "{}",
        whole["srv/file"]
    );
    assert!(
        whole["new/deep"].contains("3000000:3000001"),
        "{}",
        whole["new/deep"]
    );
    assert_eq!(whole["hard"], whole["added"]);
    understood_by_others(&layer);
    drop_half_of_it(&vm).await;
    vm.destroy().await.unwrap();
}

/// Reads an archive into a file; returns how many files it does not have.
async fn save(mut archive: ArchiveReader, path: &Path) -> u64 {
    let mut file = tokio::fs::File::create(path).await.unwrap();
    tokio::io::copy(&mut archive, &mut file).await.unwrap();
    file.flush().await.unwrap();
    let summary = archive.summary().unwrap();
    assert!(summary.files > 0, "{summary:?}");
    summary.omitted
}

/// GNU's tar lists it, with the holes that it has.
fn understood_by_others(layer: &Path) {
    let output = std::process::Command::new("tar")
        .arg("-tvf")
        .arg(layer)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaint}");
    let line = |name: &str| {
        let found = text.lines().find(|line| line.ends_with(name));
        found.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    assert!(line(" holes").contains(" 3000001 "), "{}", line(" holes"));
    assert!(line("srv/hidden/.wh..wh..opq").starts_with("----------"));
    assert!(line("srv/.wh.gone").starts_with("----------"));
    // Which of the two is the first depends on the directory.
    let linked = text.lines().filter(|line| line.contains(" link to "));
    let linked: Vec<_> = linked.collect();
    assert!(linked.iter().all(|line| line.starts_with('h')), "{text}");
    // Also one to a file of the image.
    let of_image = linked.iter().filter(|line| line.contains(" link to srv/"));
    assert_eq!((linked.len(), of_image.count()), (2, 1), "{text}");
}

/// An archive that nobody reads to its end is given up by the guest, too.
async fn drop_half_of_it(vm: &VmHandle) {
    for _ in 0..300 {
        drop(vm.files().archive_changes().await.unwrap());
    }
    assert_eq!(run(vm, "echo on").await, "on\n");
}

/// Describes all files of layers on top of each other, but for those that are none of the disk's.
fn described(layers: &[&Path]) -> BTreeMap<String, String> {
    let mut merge = Merge::new(Limits::default());
    for layer in layers {
        let file = Arc::new(File::open(layer).unwrap());
        merge.apply(&layer.display().to_string(), file).unwrap();
    }
    let tree = merge.into_tree();
    let mut all = BTreeMap::new();
    describe(&tree, tree.root(), "", &mut all);
    let not_of_the_disk = [
        "proc",
        "sys",
        "dev",
        "run",
        "etc/machine-id",
        "etc/hostname",
        "etc/hosts",
    ];
    all.retain(|path, _| !not_of_the_disk.iter().any(|other| path == other));
    all
}

fn describe(tree: &FileTree, id: NodeId, path: &str, all: &mut BTreeMap<String, String>) {
    let node = tree.node(id);
    let metadata = &node.metadata;
    let mut text = format!("{:o} {}:{}", metadata.mode, metadata.uid, metadata.gid);
    for (name, value) in metadata.xattrs() {
        text += &format!(" {}={value:?}", OsStr::from_bytes(name).display());
    }
    match &node.kind {
        Kind::File(content) => {
            let mut bytes = vec![0; usize::try_from(content.size()).unwrap()];
            Reader::new(tree).read_at(content, 0, &mut bytes).unwrap();
            text += &format!(" {} bytes {}", bytes.len(), Sha256Digest::of(&bytes));
        }
        Kind::Directory(_) => text += " directory",
        other => text += &format!(" {other:?}"),
    }
    let children = tree.children(id);
    if children.is_none() {
        text += &format!(" {:?}", metadata.mtime);
    }
    all.insert(path.to_owned(), text);
    for (name, child) in children.into_iter().flat_map(|children| children.iter()) {
        let name: String = name.iter().map(|byte| char::from(*byte)).collect();
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}/{name}")
        };
        describe(tree, child.node, &path, all);
    }
}
