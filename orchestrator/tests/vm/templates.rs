//! Tests several templates in one process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ironclaw_orchestrator::template::{ImportSpec, Template, TemplateStore};
use ironclaw_orchestrator::vm::vmm::Machine;
use ironclaw_orchestrator::vm::{
    self, Limits, Origin, SpawnError, SpawnOptions, VmHandle, destroy_vm, spawn_vm, spawn_vm_on,
    spawn_vm_with,
};
use ironclaw_test_harness::skipped;

use crate::fixture::{launcher, sh};
use crate::limit::Limit;
use crate::within::within;

/// Set where the second test of this file runs for the first: where its templates are. It does
/// nothing otherwise.
const TEMPLATES: &str = "IRONCLAW_TEST_TWO_TEMPLATES";

/// Copies a template, and makes the copy the default of the store at `root`.
fn copy(of: &Template, root: &Path, more_args: &str) -> Template {
    let spec = ImportSpec {
        kernel: of.kernel().to_owned(),
        initramfs: of.initramfs().map(Path::to_owned),
        root_disk: None,
        boot_args: format!("{} {more_args}", of.boot_args()),
    };
    let store = TemplateStore::open(root).unwrap();
    store.import(&spec, &mut |_| {}).unwrap()
}

/// Returns how much memory the guest's kernel has.
async fn kibibytes(vm: &VmHandle) -> u32 {
    let total = sh(
        vm,
        "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo",
    )
    .await;
    total.trim().parse().unwrap()
}

/// The pools of the free functions read their settings from the environment once in a process: this
/// test runs in one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_template_and_size_has_a_pool_and_all_have_one_budget() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let templates = directory.path().join("templates");
    let (one, other) = (
        copy(launcher.template(), &templates, "one=1"),
        copy(launcher.template(), &templates, "two=2"),
    );
    assert_ne!(one.hash(), other.hash());
    let started = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "templates::spawns_of_two_templates",
            "--nocapture",
        ])
        .env(TEMPLATES, one.hash().to_string())
        .env("IRONCLAW_TEMPLATE_PATH", &templates)
        .env("IRONCLAW_SNAPSHOT_PATH", directory.path().join("snapshots"))
        .env("IRONCLAW_RUN_PATH", directory.path().join("run"))
        // Otherwise each template would be tried under Firecracker first, where that is installed.
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_POOL_SIZE", "1")
        .env("IRONCLAW_MIN_WARM", "0")
        .env("IRONCLAW_MAX_VMS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = Limit::new(&started);
    let output = started.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("all served"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spawns_of_two_templates() {
    let Ok(hash) = std::env::var(TEMPLATES) else {
        return skipped("a process of another test");
    };
    let templates = vm::Config::from_env().unwrap().template_path;
    let store = TemplateStore::open(&templates).unwrap();
    let template = store.load(&hash.parse().unwrap()).unwrap();

    let default = spawn_vm("default").await.unwrap();
    let arguments = sh(&default, "cat /proc/cmdline").await;
    assert!(arguments.contains("two=2"), "{arguments}");
    let memory = kibibytes(&default).await;
    let hasty = || SpawnOptions::named("other").with_patience(Duration::from_millis(50));
    let error = spawn_vm_with(&template, hasty()).await.unwrap_err();
    assert!(
        matches!(&error, SpawnError::PoolExhausted { limit, .. } if limit.vms == 1),
        "{error}"
    );

    destroy_vm(default).await.unwrap();
    let options =
        hasty().with_limits(Limits::default().with_max_lifetime(Duration::from_secs(600)));
    let other = spawn_vm_with(&template, options).await.unwrap();
    let arguments = sh(&other, "cat /proc/cmdline").await;
    assert!(arguments.contains("one=1"), "{arguments}");
    let stats = vm::pool_stats().await.unwrap();
    assert_eq!(stats.used.vms, 1, "the default pool counts it");
    destroy_vm(other).await.unwrap();

    let machine = Machine::new(160, 1);
    let larger = spawn_vm_on(machine, &template, hasty()).await.unwrap();
    let arguments = sh(&larger, "cat /proc/cmdline").await;
    assert!(arguments.contains("one=1"), "{arguments}");
    let more = kibibytes(&larger).await - memory;
    assert!((28 << 10..=32 << 10).contains(&more), "{more} KiB more");
    assert_eq!(vm::list().len(), 1);
    assert_eq!(vm::get(larger.id()).unwrap().id(), larger.id());
    destroy_vm(larger).await.unwrap();
    assert!(vm::list().is_empty());
    let none = Machine::new(machine.memory_mib, 0);
    let error = spawn_vm_on(none, &template, hasty()).await.unwrap_err();
    assert!(
        error.to_string().contains("processors of a guest, 1-32"),
        "{error}"
    );

    // Another default template is noticed by itself, once somebody uses the pool.
    let third = copy(&template, &templates, "third=3");
    let noticed = async {
        while vm::pool_stats().await.unwrap().template != *third.hash() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("a new pool takes over", noticed).await;

    copy(&template, &templates, "three=3");
    vm::refresh_pool().await.unwrap();
    let changed = spawn_vm("changed").await.unwrap();
    assert_eq!(changed.origin(), Origin::Restored);
    let arguments = sh(&changed, "cat /proc/cmdline").await;
    assert!(arguments.contains("three=3"), "{arguments}");
    println!("all served");
    destroy_vm(changed).await.unwrap();
}
