//! Disks of a Linux guest under a real Firecracker: jailed, confined by Landlock, and neither.
//!
//! They take a kernel as the tests of [`linux`](crate::linux) do. A boot may take minutes where a
//! kernel is emulated, so each kind of confinement boots once, at the same time as the others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::template::{Sha256Digest, TemplateStore};
use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_orchestrator::vm::firecracker::{Confined, Devices, Firecracker, find_jailer};
use ironclaw_orchestrator::vm::snapshot::{FileRole, Snapshot, SnapshotStore};
use ironclaw_orchestrator::vm::vmm::DiskId;
use ironclaw_orchestrator::vm::{
    CheckpointOptions, Config, Launcher, Origin, Pool, PoolOptions, SpawnOptions, VmHandle,
};

use crate::lab::{Lab, launcher, pool, run};
use crate::linux;
use crate::root_image::{self, FILE};

/// MiB of each guest's disk: few, since filling it takes long where a kernel is emulated.
const DISK_MIB: u32 = 16;
/// Enough for a boot under emulation on a busy machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs a script in the guest; returns what it prints.
async fn sh(vm: &VmHandle, script: &str) -> String {
    run(vm, ["sh", "-c", script]).await
}

/// Returns the bytes that a snapshot's disk occupies.
fn occupied(snapshot: &Snapshot) -> u64 {
    let disk = snapshot.file(&FileRole::Disk(DiskId::scratch())).unwrap();
    fs::metadata(disk).unwrap().blocks() * 512
}

/// Creates a launcher of Firecracker without a jailer, confined by Landlock as an ordinary user's is
/// or not at all.
fn unjailed(lab: &Lab, confined: Option<Confined>) -> Launcher {
    let Config {
        run_path,
        template_path,
        snapshot_path,
        ..
    } = &lab.config;
    let (binary, devices) = (lab.binary.clone(), Devices::default());
    let mut vmm = Firecracker::new(binary, run_path, None, devices).unwrap();
    if let Some(confined) = confined {
        vmm = vmm.confined(confined);
    }
    let store = TemplateStore::open(template_path).unwrap();
    let template = store.default_template().unwrap().unwrap();
    let snapshots = SnapshotStore::open(snapshot_path).unwrap();
    let progress = Arc::new(|_: &_| {});
    Launcher::with(Arc::new(vmm), template, &lab.config, snapshots, progress).unwrap()
}

/// Reads the image's file, writes over it, and reads that.
async fn writes_over_the_image(vm: &VmHandle) {
    assert_eq!(sh(vm, "cat /srv/file").await, FILE, "{}", vm.name());
    let script = format!(
        "echo {0} > /srv/file; sync; echo 3 > /proc/sys/vm/drop_caches; cat /srv/file /etc/hostname; \
         grep -c ' / overlay ' /proc/mounts",
        vm.name()
    );
    let expected = format!("{0}\n{0}\n1\n", vm.name());
    assert_eq!(sh(vm, &script).await, expected);
}

/// Opens a pool of the one snapshot that there is.
async fn pool_of(launcher: &Launcher) -> Pool {
    let options = PoolOptions::new(1).with_warm(0);
    Pool::open(launcher.clone(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn linux_clones_share_a_root_image_and_write_to_disks_of_their_own_however_confined() {
    let with_root =
        linux::open_with(|template, directory| Some(root_image::make(template, directory)));
    let Some(mut lab) = with_root.await else {
        return;
    };
    lab.config.machine.disk_mib = Some(DISK_MIB);
    lab.config.boot_timeout = BOOT_TIMEOUT;
    let jailer = lab.config.backends.firecracker.jailer.as_deref();
    let may_jail = rustix::process::geteuid().is_root() && find_jailer(jailer).is_ok();
    let paths = [&lab.config.snapshot_path, &lab.config.template_path].map(Clone::clone);
    let landlock = Confined::find(&lab.binary.path, &lab.config.run_path, &paths);
    let free = unjailed(&lab, None);
    let confined = unjailed(&lab, Some(landlock));
    let strongest = if may_jail {
        lab.config.jail = JailChoice::On;
        launcher(&lab.config).await
    } else {
        confined.clone()
    };
    let image = strongest.template().root_disk().unwrap().to_owned();
    let digest = || Sha256Digest::of(fs::read(&image).unwrap());
    let before = digest();

    let pool = pool(&strongest, 1, 1).await;
    let booted = async { tokio::join!(free.cold_boot("free"), confined.cold_boot("confined")) };
    let (warmed, (free_boot, confined_boot)) = tokio::join!(pool.warmup(), booted);
    warmed.unwrap();
    let warm = pool.spawn("warm").await.unwrap();
    let (free_boot, confined_boot) = (free_boot.unwrap(), confined_boot.unwrap());
    assert_eq!((warm.origin(), warm.is_jailed()), (Origin::Warm, may_jail));
    let base = {
        let (store, needs) = (strongest.snapshots(), strongest.requirements());
        store.load(pool.snapshots()[0], needs).unwrap()
    };
    // A snapshot of one confinement serves in all, since its disks have the same paths in each.
    let restored = strongest.restore_vm(&base, "restored").await.unwrap();
    let restored_free = free.restore_vm(&base, "restored-free").await.unwrap();
    let restored_confined = confined
        .restore_vm(&base, "restored-confined")
        .await
        .unwrap();
    assert!(occupied(&base) <= 1 << 20, "{}", occupied(&base));
    let all = [
        &warm,
        &free_boot,
        &confined_boot,
        &restored,
        &restored_free,
        &restored_confined,
    ];
    for vm in all {
        writes_over_the_image(vm).await;
    }
    // Each kept its own.
    for vm in all {
        assert_eq!(sh(vm, "cat /srv/file").await, format!("{}\n", vm.name()));
    }
    for vm in [free_boot, confined_boot, restored, restored_free] {
        vm.destroy().await.unwrap();
    }

    // A full disk is an error in the guest, which goes on.
    let filled = sh(
        &restored_confined,
        "fallocate -l 11M /filling; dd if=/dev/zero of=/rest bs=64k 2>&1 | tail -n 3; \
         rm /filling /rest; echo on > /srv/file; cat /srv/file",
    );
    let filled = filled.await;
    assert!(filled.contains("No space left on device"), "{filled}");
    assert!(filled.ends_with("on\n"), "{filled}");

    // Checkpoints of a jailed one and a confined one: each fork has the disk of that moment.
    let confined_pool = pool_of(&confined).await;
    let free_pool = pool_of(&free).await;
    for (vm, pools) in [
        (warm, [&pool, &free_pool]),
        (restored_confined, [&confined_pool, &free_pool]),
    ] {
        let script = "echo before > /srv/file; dd if=/dev/urandom of=/large bs=64k count=16 2>&1; \
                      sync; echo early > /srv/late; sha256sum < /large | tail -n 1";
        let large = sh(&vm, script).await;
        let large = large.lines().last().unwrap().to_owned();
        let options = CheckpointOptions::owned_by("suite");
        let checkpoint = vm.checkpoint(options).await.unwrap();
        assert!(occupied(&checkpoint) >= 1 << 20);
        sh(&vm, "echo after > /srv/file; rm /large; sync").await;
        for pool in pools {
            let named = SpawnOptions::named("copy");
            let copy = pool.fork(&checkpoint, named).await.unwrap();
            assert_eq!(copy.origin(), Origin::Restored);
            let script = "echo 3 > /proc/sys/vm/drop_caches; cat /srv/file /srv/late /etc/hostname; \
                          sha256sum < /large; echo copy > /srv/file; sync";
            let expected = format!("before\nearly\ncopy\n{large}\n");
            assert_eq!(sh(&copy, script).await, expected);
            copy.destroy().await.unwrap();
        }
        let now = sh(&vm, "cat /srv/file; ls /large 2>&1 | wc -l").await;
        assert_eq!(now, "after\n1\n");
        vm.destroy().await.unwrap();
        strongest.snapshots().verify(checkpoint.id()).unwrap();
    }
    for pool in [pool, confined_pool, free_pool] {
        pool.close().await;
    }
    strongest.snapshots().verify(base.id()).unwrap();
    assert_eq!(digest(), before);
    lab.until_no_home();
}
