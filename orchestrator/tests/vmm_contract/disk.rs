//! Disks: an image that all clones share, and one that each writes to for itself.
//!
//! The guest of these trials is Linux under QEMU; `tests/firecracker/disks.rs` has it under
//! Firecracker.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::template::{ImportSpec, Removal, Sha256Digest, Template, TemplateStore};
use ironclaw_orchestrator::vm::snapshot::{FileRole, Snapshot};
use ironclaw_orchestrator::vm::vmm::DiskId;
use ironclaw_orchestrator::vm::{CheckpointOptions, Config, Launcher, SpawnOptions, VmHandle};
use libtest_mimic::Trial;

use crate::backend::{self, Backend};
use crate::contract::on;
use crate::room::{of_vms, pool};
use crate::root_image::{self, FILE};
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
    let mut all = trials![
        clones_write_the_same_file_differently_and_their_image_stays_as_it_was,
        a_full_disk_is_an_error_in_the_guest_and_nothing_else,
        a_checkpoint_has_the_disk_of_its_moment,
        a_damaged_disk_is_noticed,
    ];
    all.push(trial(
        "disk::a_deleted_template_serves_its_vms_and_checkpoints_until_they_are_gone".to_owned(),
        || {
            on(backend::Kind::Qemu, async |backend| {
                deleted_template(Disks::make(backend), backend).await;
            })
        },
    ));
    all
}

/// A launcher whose template has a root disk.
pub(crate) struct Disks {
    pub(crate) launcher: Launcher,
    pub(crate) image: PathBuf,
}

impl Disks {
    pub(crate) fn make(backend: &Backend) -> Self {
        let (config, template) = Self::template(backend);
        let snapshots = backend.launcher.snapshots().clone();
        let progress = Arc::new(|_: &_| {});
        let vmm = Arc::clone(&backend.vmm);
        let image = template.root_disk().unwrap().to_owned();
        let launcher = Launcher::with(vmm, template, &config, snapshots, progress).unwrap();
        Self { launcher, image }
    }

    /// Makes a template with a root disk, and settings for its guests.
    pub(crate) fn template(backend: &Backend) -> (Config, Template) {
        let directory = backend.config.run_path.parent().unwrap();
        let image = root_image::make(backend.launcher.template(), directory);
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
        (config, template)
    }

    /// Opens a launcher of a template that is in the store, deleted or not.
    fn again(backend: &Backend, template: Template) -> Launcher {
        let mut config = backend.config.clone();
        config.machine.disk_mib = Some(DISK_MIB);
        let snapshots = backend.launcher.snapshots().clone();
        let vmm = Arc::clone(&backend.vmm);
        Launcher::with(vmm, template, &config, snapshots, Arc::new(|_: &_| {})).unwrap()
    }

    fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(fs::read(&self.image).unwrap())
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
        assert_eq!(run(vm, "cat /srv/file").await, FILE);
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
    assert_eq!(run(&fresh, "cat /srv/file").await, FILE);
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

async fn deleted_template(disks: Disks, backend: &Backend) {
    let Disks { launcher, image } = disks;
    let hash = *launcher.template().hash();
    let store = TemplateStore::open(image.parent().unwrap().parent().unwrap()).unwrap();
    let opened = pool(&launcher, 0, &of_vms(3)).await;
    let vm = opened.spawn("original").await.unwrap();
    let options = CheckpointOptions::owned_by("suite");
    run(&vm, "echo before > /srv/file").await;
    let first = vm.checkpoint(options.clone()).await.unwrap();
    assert_eq!(store.delete(&hash).unwrap(), Removal::WhenUnused);
    assert!(store.default_template().unwrap().is_none());
    // Its VMs go on, and have everything done to them that is done to others.
    run(
        &vm,
        "echo 3 > /proc/sys/vm/drop_caches; ls -lR /bin /etc /srv > /dev/null",
    )
    .await;
    let second = vm.checkpoint(options).await.unwrap();
    let fork = opened.fork(&second, SpawnOptions::named("fork"));
    let fork = fork.await.unwrap();
    assert_eq!(run(&fork, "cat /srv/file").await, "before\n");
    let spawned = opened.spawn("spawned").await.unwrap();
    assert_eq!(run(&spawned, "cat /srv/file").await, FILE);
    for vm in [vm, fork, spawned] {
        vm.destroy().await.unwrap();
    }
    opened.close().await;
    let ids = [first.id(), second.id()];
    drop((launcher, first, second));

    // As another process would, later.
    let snapshots = backend.launcher.snapshots();
    snapshots.delete_unused(Duration::ZERO).unwrap();
    store.remove_deleted().unwrap();
    let launcher = Disks::again(backend, store.load(&hash).unwrap());
    for id in ids {
        let needs = launcher.requirements();
        let checkpoint = snapshots.checkpoint(id, needs).unwrap();
        let copy = launcher.restore_vm(&checkpoint, "copy").await.unwrap();
        let script = "echo 3 > /proc/sys/vm/drop_caches; cat /srv/file";
        assert_eq!(run(&copy, script).await, "before\n");
        copy.destroy().await.unwrap();
    }
    drop(launcher);
    for id in ids {
        store.remove_deleted().unwrap();
        assert!(image.exists());
        snapshots.delete(id).unwrap();
    }
    store.remove_deleted().unwrap();
    assert!(!image.exists());
}
