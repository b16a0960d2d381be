//! Tests a Linux guest under a real Firecracker.
//!
//! Debian's kernels do not boot under every KVM, like one that emulates its guests' kernel mode.
//! `IRONCLAW_TEST_LINUX_KERNEL` names an uncompressed kernel that boots under this host's, with
//! virtio-mmio, vsock and the initramfs's file systems built in; `IRONCLAW_TEST_LINUX_BOOT_ARGS`
//! has more arguments for it. Its initramfs is that of `ironclaw template build`. The tests may
//! take minutes where a kernel is emulated.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ironclaw_orchestrator::template::{BuildSpec, ImportSpec, Template, TemplateStore};
use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_orchestrator::vm::{Command, ExitStatus, Origin, VmHandle, find_guest_agent};
use ironclaw_test_harness::skipped;

use crate::lab::{Lab, launcher, pool, run};

const KERNEL: &str = "IRONCLAW_TEST_LINUX_KERNEL";
const BOOT_ARGS: &str = "IRONCLAW_TEST_LINUX_BOOT_ARGS";

/// Opens a lab whose default template is Linux; `None` if no kernel is named.
async fn open() -> Option<Lab> {
    open_with(|_, _| None).await
}

/// Does the same for a template with the root disk that `make_root` makes of Debian's template, in a
/// directory.
pub(crate) async fn open_with(
    make_root: impl FnOnce(&Template, &Path) -> Option<PathBuf> + Send + 'static,
) -> Option<Lab> {
    let Some(kernel) = std::env::var_os(KERNEL).map(PathBuf::from) else {
        skipped(format!(
            "{KERNEL} names no kernel that boots under this host's KVM"
        ));
        return None;
    };
    let lab = Lab::open().await?;
    let agent = find_guest_agent(&lab.config).unwrap();
    let (path, directory) = (lab.config.template_path.clone(), lab.path().to_owned());
    let import = move || {
        let store = TemplateStore::open(path).unwrap();
        let debian = store.build(&BuildSpec::new(agent), &mut |_| {}).unwrap();
        let spec = ImportSpec {
            kernel,
            initramfs: debian.initramfs().map(ToOwned::to_owned),
            root_disk: make_root(&debian, &directory),
            boot_args: std::env::var(BOOT_ARGS).unwrap_or_default(),
        };
        store.import(&spec, &mut |_| {}).unwrap();
    };
    tokio::task::spawn_blocking(import).await.unwrap();
    Some(lab)
}

/// Returns facts that must differ between VMs.
async fn identity(vm: &VmHandle) -> Vec<String> {
    let script = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; \
                  head -c 32 /dev/urandom | sha256sum";
    let facts = run(vm, ["sh", "-c", script]).await;
    let facts: Vec<_> = facts.lines().map(str::to_owned).collect();
    assert_eq!((facts.len(), facts[0].as_str()), (4, vm.name()));
    facts
}

/// Returns the host's time in whole seconds, as the guest reports its own.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn linux_clones_of_each_tier_run_commands_with_a_clock_and_an_identity_of_their_own() {
    let Some(mut lab) = open().await else { return };
    // Jailed if this user may.
    lab.config.jail = JailChoice::Auto;
    let launcher = launcher(&lab.config).await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let warm = pool.spawn("warm").await.unwrap();
    let snapshot = pool.snapshots()[0];
    let (store, needs) = (
        launcher.snapshots().clone(),
        launcher.requirements().clone(),
    );
    let load = move || store.load(snapshot, &needs);
    let snapshot = tokio::task::spawn_blocking(load).await.unwrap().unwrap();
    let restored = launcher.restore_vm(&snapshot, "restored").await.unwrap();
    assert_eq!(
        (warm.origin(), restored.origin()),
        (Origin::Warm, Origin::Restored)
    );

    for vm in [&warm, &restored] {
        assert_eq!(run(vm, ["uname", "-s"]).await, "Linux\n");
        let earliest = now();
        let guest: u64 = run(vm, ["date", "+%s"]).await.trim().parse().unwrap();
        // A clock is late by the time that setting it took, and reports whole seconds.
        let late = vm.timings().hello.as_secs() + 1;
        assert!(
            (earliest - late..=now() + 1).contains(&guest),
            "{earliest} {guest}"
        );
        let output = vm
            .exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
            .await
            .unwrap();
        assert_eq!(output.status, ExitStatus::Code(7));
        assert_eq!(
            (output.stdout.as_slice(), output.stderr.as_slice()),
            (b"out\n".as_slice(), b"err\n".as_slice())
        );
        let content = [7; 100_000];
        vm.put_file("/tmp/file", 0o600, &content).await.unwrap();
        assert_eq!(vm.get_file("/tmp/file", 1 << 20).await.unwrap(), content);
        let limited = Command::new("sleep")
            .arg("1000")
            .timeout(Duration::from_secs(2));
        let limited = vm.exec(limited).await.unwrap();
        assert_eq!(limited.status, ExitStatus::TimedOut);
    }
    for (one, other) in identity(&warm).await.iter().zip(&identity(&restored).await) {
        assert_ne!(one, other);
    }
    warm.destroy().await.unwrap();
    let closed = matches!(restored.destroy().await, Ok(()));
    assert!(closed);
    pool.close().await;
    lab.until_no_home();
}
