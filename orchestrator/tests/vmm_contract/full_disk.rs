//! The host's disk is full while guests use theirs; and what disks of idle clones take of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::{CheckpointOptions, Config, ErrorKind, Launcher, qemu};
use ironclaw_test_harness::skipped;
use libtest_mimic::Trial;

use crate::backend::{self, Backend};
use crate::contract::on;
use crate::disk::{Disks, run};
use crate::required::unless_required;
use crate::room::{of_vms, pool};
use crate::small_disk::SmallDisk;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(trial(format!("full_disk::{}", stringify!($name)), || on(backend::Kind::Qemu, async |backend| {
                $name(backend).await;
            }))),*]
        };
    }
    trials![
        a_guest_whose_writes_find_the_hosts_disk_full_gets_an_error_and_no_other_does,
        a_checkpoint_that_finds_the_disk_full_is_an_error_and_its_vm_goes_on,
        idle_clones_take_next_to_nothing_and_open_one_image,
    ]
}

fn mount(mebibytes: u32) -> Option<SmallDisk> {
    let denied = |reason: &str| unless_required(&reason);
    SmallDisk::mount(mebibytes, denied).map_err(skipped).ok()
}

/// Opens a launcher with the state directories that `change` leads elsewhere.
async fn launcher(backend: &Backend, change: impl FnOnce(&mut Config)) -> Launcher {
    let (mut config, template) = Disks::template(backend);
    config.backend = BackendChoice::Only(qemu::KIND);
    change(&mut config);
    let progress = Arc::new(|_: &_| {});
    Launcher::of(template, &config, progress).await.unwrap()
}

async fn a_guest_whose_writes_find_the_hosts_disk_full_gets_an_error_and_no_other_does(
    backend: &Backend,
) {
    let Some(small) = mount(24) else { return };
    let run_path = small.path().join("run");
    let launcher = launcher(backend, |config| config.run_path = run_path).await;
    let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
    let greedy = launcher.restore_vm(&snapshot, "greedy").await.unwrap();
    let modest = launcher.restore_vm(&snapshot, "modest").await.unwrap();
    run(&modest, "echo before > /srv/file; sync").await;
    let fill = "dd if=/dev/zero of=/filling bs=1M count=48 conv=fsync 2>&1";
    let filled = greedy.exec(["sh", "-c", fill]).await.unwrap();
    assert!(!filled.status.success(), "{filled:?}");

    // No clone can be made, and that says why; it leaves nothing.
    let homes = || fs::read_dir(small.path().join("run")).unwrap().count();
    let before = homes();
    SmallDisk::fill(small.path());
    let error = launcher.restore_vm(&snapshot, "late").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(homes(), before);

    // Both go on: the guest that was refused, and the one that had nothing to do with it.
    assert_eq!(run(&greedy, "hostname").await, "greedy\n");
    let script = "echo 3 > /proc/sys/vm/drop_caches; cat /srv/file; hostname";
    assert_eq!(run(&modest, script).await, "before\nmodest\n");
    for vm in [&greedy, &modest] {
        vm.pause().await.unwrap();
        vm.resume().await.unwrap();
        assert_eq!(run(vm, "hostname").await, format!("{}\n", vm.name()));
    }
    // What one took is free again with it.
    small.free();
    greedy.destroy().await.unwrap();
    run(
        &modest,
        "dd if=/dev/zero of=/some bs=1M count=8 conv=fsync; rm /some",
    )
    .await;
    let next = launcher.restore_vm(&snapshot, "next").await.unwrap();
    run(&next, "dd if=/dev/zero of=/some bs=1M count=2 conv=fsync").await;
    for vm in [modest, next] {
        vm.destroy().await.unwrap();
    }
}

async fn a_checkpoint_that_finds_the_disk_full_is_an_error_and_its_vm_goes_on(backend: &Backend) {
    let Some(small) = mount(220) else { return };
    let path = small.path().join("snapshots");
    let launcher = launcher(backend, |config| {
        config.snapshot_path = path;
        config.machine.disk_mib = Some(512);
    });
    let launcher = launcher.await;
    let pool = pool(&launcher, 0, &of_vms(2)).await;
    let vm = pool.spawn("vm").await.unwrap();
    let digest = run(
        &vm,
        "dd if=/dev/zero of=/large bs=1M count=200 conv=fsync 2>&1; echo kept > /srv/file",
    )
    .await;
    let names = |path: &Path| {
        let entries = fs::read_dir(path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let before = names(launcher.snapshots().root());
    let error = vm
        .checkpoint(CheckpointOptions::owned_by("suite"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?} {digest}");
    assert_eq!(names(launcher.snapshots().root()), before);
    assert_eq!(run(&vm, "cat /srv/file").await, "kept\n");
    // With room there is one.
    run(&vm, "rm /large; sync").await;
    vm.destroy().await.unwrap();
    let vm = pool.spawn("other").await.unwrap();
    let options = CheckpointOptions::owned_by("suite");
    let checkpoint = vm.checkpoint(options).await.unwrap();
    launcher.snapshots().verify(checkpoint.id()).unwrap();
    vm.destroy().await.unwrap();
    drop(checkpoint);
    pool.close().await;
}

/// Returns device, inode, links, size and allocated bytes of each file that a process has open.
fn open_files(pid: u32) -> Vec<fs::Metadata> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files = descriptors.filter_map(|entry| fs::metadata(entry.unwrap().path()).ok());
    files.filter(fs::Metadata::is_file).collect()
}

async fn idle_clones_take_next_to_nothing_and_open_one_image(backend: &Backend) {
    const CLONES: usize = 4;
    let disks = Disks::make(backend);
    let pool = pool(&disks.launcher, CLONES, &of_vms(CLONES + 1)).await;
    pool.warmup().await.unwrap();
    let image = fs::metadata(&disks.image).unwrap();
    let pids = pool.warm_pids();
    assert_eq!(pids.len(), CLONES);
    for pid in pids {
        let files = open_files(pid);
        let is_image =
            |file: &&fs::Metadata| (file.dev(), file.ino()) == (image.dev(), image.ino());
        // However many descriptors QEMU has of it.
        assert!(files.iter().any(|file| is_image(&file)));
        // The other copies of it would be as large; each clone's own disk has no name.
        assert!(
            files
                .iter()
                .all(|file| file.len() != image.len() || is_image(&file))
        );
        let bytes = disks.launcher.machine().disk_bytes();
        let own: Vec<_> = files.iter().filter(|file| file.len() == bytes).collect();
        assert!(!own.is_empty() && own.iter().all(|file| file.ino() == own[0].ino()));
        assert_eq!(own[0].nlink(), 0);
        let occupied = own[0].blocks() * 512;
        assert!(occupied <= 1 << 20, "{occupied} bytes");
    }
    pool.close().await;
}
