//! Disks: an image that all clones share, and one that each writes to for itself.
//!
//! The guest of these trials is Linux under QEMU; `tests/firecracker/linux.rs` has it under
//! Firecracker.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_orchestrator::template::tree::{
    Children, Content, FileTree, Kind, Metadata, Node, Source,
};
use ironclaw_orchestrator::template::{ImportSpec, Sha256Digest, Template, TemplateStore, erofs};
use ironclaw_orchestrator::vm::snapshot::{FileRole, Snapshot};
use ironclaw_orchestrator::vm::vmm::DiskId;
use ironclaw_orchestrator::vm::{CheckpointOptions, Launcher, SpawnOptions, VmHandle};
use libtest_mimic::Trial;

use crate::backend::{self, Backend};
use crate::contract::on;
use crate::room::{of_vms, pool};
use crate::trial;

/// MiB of each guest's disk.
const DISK_MIB: u32 = 64;

pub(crate) fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(trial(format!("disk::{}", stringify!($name)), || on(backend::Kind::Qemu, async |backend| {
                $name(&Disks::make(backend)).await;
            }))),*]
        };
    }
    trials![
        clones_write_the_same_file_differently_and_their_image_stays_as_it_was,
        a_full_disk_is_an_error_in_the_guest_and_nothing_else,
        a_checkpoint_has_the_disk_of_its_moment,
        a_damaged_disk_is_noticed,
    ]
}

/// A launcher whose template has a root disk.
pub(crate) struct Disks {
    pub(crate) launcher: Launcher,
    image: PathBuf,
}

impl Disks {
    pub(crate) fn make(backend: &Backend) -> Self {
        let directory = backend.config.run_path.parent().unwrap();
        let image = image(backend.launcher.template(), directory);
        let mut config = backend.config.clone();
        config.machine.disk_mib = Some(DISK_MIB);
        config.template_path = directory.join("templates");
        let store = TemplateStore::open(&config.template_path).unwrap();
        let base = backend.launcher.template();
        let spec = ImportSpec {
            kernel: base.kernel().to_owned(),
            initramfs: base.initramfs().map(Path::to_owned),
            root_disk: Some(image),
            boot_args: base.boot_args().to_owned(),
        };
        let template = store.import(&spec, &mut |_| {}).unwrap();
        let image = template.root_disk().unwrap().to_owned();
        let snapshots = backend.launcher.snapshots().clone();
        let progress = Arc::new(|_: &_| {});
        let vmm = Arc::clone(&backend.vmm);
        let launcher = Launcher::with(vmm, template, &config, snapshots, progress).unwrap();
        Self { launcher, image }
    }

    fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(fs::read(&self.image).unwrap())
    }
}

/// Makes an image with the programs of the template's initramfs.
fn image(template: &Template, directory: &Path) -> PathBuf {
    let mut tree = initramfs(template.initramfs().unwrap());
    let srv = tree.resolve(b"srv").unwrap();
    for name in [&b"hidden"[..], b"tree", b"plain"] {
        let node = Node::directory(Metadata::of_mode(0o755));
        tree.insert(srv, name, node).unwrap();
    }
    let file = directory.join("file");
    fs::write(&file, "of the image\n").unwrap();
    let opened = Source::Open(Arc::new(File::open(&file).unwrap()));
    let source = tree.add_source(opened).unwrap();
    let names: [&[u8]; 8] = [
        b"file",
        b"gone",
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
            kind: Kind::File(Content::whole(source, 0, 13)),
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
            u64::from_str_radix(text, 16).unwrap()
        };
        let (mode, size, name_size) = (field(1), field(6), field(11) as usize);
        let name = &bytes[at + 110..at + 110 + name_size - 1];
        let content = (at + 110 + name_size).next_multiple_of(4);
        let end = content + size as usize;
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
            0o100_000 => Kind::File(Content::whole(source, content as u64, size)),
            0o120_000 => Kind::Symlink(bytes[content..end].into()),
            _device => continue,
        };
        let directory = tree.resolve(above).unwrap();
        let metadata = Metadata::of_mode((mode & 0o7777) as u16);
        tree.insert(directory, name, Node { metadata, kind })
            .unwrap();
    }
}

/// Runs a script in the guest; returns what it prints.
pub(crate) async fn run(vm: &VmHandle, script: &str) -> String {
    let output = vm.exec(["sh", "-c", script]).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{script}: {}", text(output.stderr));
    text(output.stdout)
}

/// Returns the bytes that a snapshot's disk occupies.
fn occupied(snapshot: &Snapshot) -> u64 {
    let disk = snapshot.file(&FileRole::Disk(DiskId::scratch())).unwrap();
    fs::metadata(disk).unwrap().blocks() * 512
}

async fn clones_write_the_same_file_differently_and_their_image_stays_as_it_was(disks: &Disks) {
    let launcher = &disks.launcher;
    let before = disks.digest();
    let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
    assert!(occupied(&snapshot) <= 1 << 20, "{}", occupied(&snapshot));
    let one = launcher.restore_vm(&snapshot, "one").await.unwrap();
    let two = launcher.restore_vm(&snapshot, "two").await.unwrap();
    let cold = launcher.cold_boot("cold").await.unwrap();
    let all = [&one, &two, &cold];
    for vm in all {
        assert_eq!(run(vm, "cat /srv/file").await, "of the image\n");
        let mounted = run(
            vm,
            "grep -c ' / overlay ' /proc/mounts; ls /dev/pts/ptmx /proc/self/exe",
        );
        assert!(mounted.await.starts_with("1\n"));
        assert_eq!(
            run(vm, "hostname; cat /etc/hostname").await,
            format!("{0}\n{0}\n", vm.name())
        );
        run(vm, &format!("echo {} > /srv/file; sync", vm.name())).await;
    }
    for vm in all {
        assert_eq!(run(vm, "cat /srv/file").await, format!("{}\n", vm.name()));
    }
    // Removed in one of them.
    run(&one, "rm -r /srv; sync").await;
    assert_eq!(run(&two, "cat /srv/file").await, "two\n");
    for vm in [one, two, cold] {
        vm.destroy().await.unwrap();
    }
    let fresh = launcher.restore_vm(&snapshot, "fresh").await.unwrap();
    assert_eq!(run(&fresh, "cat /srv/file").await, "of the image\n");
    fresh.destroy().await.unwrap();
    launcher.snapshots().verify(snapshot.id()).unwrap();
    assert_eq!(disks.digest(), before);
}

async fn a_full_disk_is_an_error_in_the_guest_and_nothing_else(disks: &Disks) {
    let pool = pool(&disks.launcher, 0, &of_vms(3)).await;
    let vm = pool.spawn("full").await.unwrap();
    let fill = "dd if=/dev/zero of=/filling bs=1M 2>&1 | tail -n 3; sync; wc -c < /filling";
    let filled = run(&vm, fill).await;
    assert!(filled.contains("No space left on device"), "{filled}");
    let bytes: u64 = filled.lines().last().unwrap().trim().parse().unwrap();
    let whole = u64::from(DISK_MIB) << 20;
    assert!((whole / 2..whole).contains(&bytes), "{bytes}");
    run(&vm, "! echo more > /srv/file").await;
    // It is held, goes on and is copied as ever.
    vm.pause().await.unwrap();
    vm.resume().await.unwrap();
    let options = CheckpointOptions::owned_by("suite");
    let checkpoint = vm.checkpoint(options).await.unwrap();
    let copy = pool
        .fork(&checkpoint, SpawnOptions::named("copy"))
        .await
        .unwrap();
    for vm in [&vm, &copy] {
        let name = vm.name();
        assert_eq!(
            run(vm, "hostname; cat /etc/hostname").await,
            format!("{name}\n{name}\n")
        );
        let again = "rm /filling; echo again > /srv/file; cat /srv/file";
        assert_eq!(run(vm, again).await, "again\n");
    }
    for vm in [vm, copy] {
        vm.destroy().await.unwrap();
    }
    pool.close().await;
}

async fn a_checkpoint_has_the_disk_of_its_moment(disks: &Disks) {
    let pool = pool(&disks.launcher, 0, &of_vms(3)).await;
    let vm = pool.spawn("original").await.unwrap();
    run(
        &vm,
        "echo before > /srv/file; dd if=/dev/urandom of=/large bs=1M count=8; sync",
    )
    .await;
    // One that is in the guest's memory alone, and one that is half on its way.
    let digest = run(&vm, "echo early > /srv/late; sha256sum /large").await;
    let options = CheckpointOptions::owned_by("suite");
    let checkpoint = vm.checkpoint(options).await.unwrap();
    assert!(occupied(&checkpoint) >= 8 << 20);
    run(&vm, "echo after > /srv/file; rm /large; sync").await;
    let copy = pool
        .fork(&checkpoint, SpawnOptions::named("copy"))
        .await
        .unwrap();
    assert_eq!(
        run(&copy, "cat /srv/file /srv/late").await,
        "before\nearly\n"
    );
    run(&copy, "echo 3 > /proc/sys/vm/drop_caches").await;
    assert_eq!(run(&copy, "sha256sum /large").await, digest);
    assert_eq!(
        run(&vm, "cat /srv/file; ls /large 2>&1 | wc -l").await,
        "after\n1\n"
    );
    run(&copy, "echo copy > /srv/file; sync").await;
    assert_eq!(run(&vm, "cat /srv/file").await, "after\n");
    for vm in [vm, copy] {
        vm.destroy().await.unwrap();
    }
    disks.launcher.snapshots().verify(checkpoint.id()).unwrap();
    pool.close().await;
}

async fn a_damaged_disk_is_noticed(disks: &Disks) {
    let launcher = &disks.launcher;
    let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
    let disk = snapshot.file(&FileRole::Disk(DiskId::scratch())).unwrap();
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(1 << 20).unwrap();
    let error = launcher.restore_vm(&snapshot, "short").await.unwrap_err();
    assert!(error.to_string().contains("disk-scratch"), "{error}");
    let (id, needs) = (snapshot.id(), launcher.requirements().clone());
    drop(snapshot);
    let error = launcher.snapshots().load(id, &needs).unwrap_err();
    assert!(error.to_string().contains("disk-scratch"), "{error}");

    let cut = fs::File::options().write(true).open(&disks.image).unwrap();
    cut.set_len(4096).unwrap();
    let root = disks.image.parent().unwrap().parent().unwrap();
    let store = TemplateStore::open(root).unwrap();
    let error = store.load(launcher.template().hash()).unwrap_err();
    assert!(error.to_string().contains("root-disk"), "{error}");
}
