//! Tests that pools share their standby processes.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use ironclaw_orchestrator::template::{ImportSpec, Template, TemplateStore};
use ironclaw_orchestrator::vm::{Launcher, Origin, Pool, PoolOptions};

use crate::jail::jailed;
use crate::lab::{Lab, run};
use crate::process::is_alive;

const TEMPLATES: usize = 3;
const STANDBY: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn three_templates_that_idle_have_one_set_of_standby_processes() {
    let Some(lab) = Lab::open().await else { return };
    share_a_set(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_templates_that_idle_have_one_set_of_jailed_standby_processes() {
    let Some(lab) = jailed().await else { return };
    share_a_set(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_processes_outlive_the_pool_that_started_them() {
    let Some(lab) = Lab::open().await else { return };
    outlive_their_pool(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jailed_standby_processes_outlive_the_pool_that_started_them() {
    let Some(lab) = jailed().await else { return };
    outlive_their_pool(&lab).await;
}

async fn outlive_their_pool(lab: &Lab) {
    let options = || PoolOptions::new(1).with_warm(0).with_standby(STANDBY);
    let first = Pool::open(lab.launcher().await, options()).await.unwrap();
    first.warmup().await.unwrap();
    let started = first.standby_pids();
    assert_eq!(started.len(), STANDBY);
    let second = Pool::open(lab.launcher().await, options()).await.unwrap();
    second.warmup().await.unwrap();
    assert_eq!(second.standby_pids(), started);
    // Its hypervisor goes with it.
    first.close().await;
    assert_eq!(second.standby_pids(), started);
    assert!(started.iter().all(|pid| is_alive(*pid)), "{started:?}");
    let vm = second.spawn("restored").await.unwrap();
    assert!(started.contains(&vm.pid()), "one of the set serves");
    assert_eq!(run(&vm, ["echo", "served"]).await, "served\n");
    vm.destroy().await.unwrap();
    second.close().await;
    assert!(!started.iter().any(|pid| is_alive(*pid)));
    lab.until_no_home();
}

/// Copies the lab's template, with other boot arguments.
fn copy(lab: &Lab, boot_args: &str) -> Template {
    let store = TemplateStore::open(&lab.config.template_path).unwrap();
    let template = store.default_template().unwrap().unwrap();
    let spec = ImportSpec {
        kernel: template.kernel().to_owned(),
        initramfs: None,
        root_disk: None,
        boot_args: boot_args.to_owned(),
    };
    store.import(&spec, &mut |_| {}).unwrap()
}

async fn share_a_set(lab: &Lab) {
    let mut pools = Vec::new();
    for template in 0..TEMPLATES {
        let template = copy(lab, &format!("template={template}"));
        // Each has a hypervisor of its own, as when programs of their own had opened them.
        let launcher = Launcher::of(template, &lab.config, Arc::new(|_: &_| {}));
        let options = PoolOptions::new(1).with_warm(0).with_standby(STANDBY);
        let pool = Pool::open(launcher.await.unwrap(), options).await.unwrap();
        pool.warmup().await.unwrap();
        pools.push(pool);
    }
    let hashes: Vec<_> = pools.iter().map(|pool| pool.stats().template).collect();
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    let all = pools[0].standby_pids();
    assert_eq!(all.len(), STANDBY);
    for pool in &pools {
        assert_eq!(pool.standby_pids(), all);
    }
    // The VMs that were booted for the snapshots are gone, and there are no other processes.
    assert_eq!(lab.homes().len(), STANDBY, "{:?}", lab.homes());
    for (number, pool) in pools.iter().enumerate() {
        let standby = pool.standby_pids();
        let vm = pool.spawn("restored").await.unwrap();
        assert_eq!(vm.origin(), Origin::Restored);
        assert!(standby.contains(&vm.pid()), "one of the set serves");
        assert_eq!(run(&vm, ["echo", "served"]).await, "served\n", "{number}");
        vm.destroy().await.unwrap();
        // It is replaced.
        pool.warmup().await.unwrap();
        // Spawns within two seconds are one burst, for which as many stand by.
        let burst = STANDBY.max(number + 1);
        assert!((STANDBY..=burst).contains(&pool.stats().standby));
    }
    // The set lasts as long as one of the pools.
    let last = pools.pop().unwrap();
    for pool in pools {
        pool.close().await;
    }
    let standby = last.standby_pids();
    assert!(standby.len() >= STANDBY, "{standby:?}");
    assert!(standby.iter().all(|pid| is_alive(*pid)), "{standby:?}");
    last.close().await;
    assert!(!standby.iter().any(|pid| is_alive(*pid)));
    lab.until_no_home();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_a_program_that_was_replaced_serves_a_pool_that_found_the_new_one() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let program = lab.path().join("firecracker");
    let replace = || {
        let part = program.with_extension("part");
        std::fs::copy(&lab.binary.path, &part).unwrap();
        std::fs::rename(part, &program).unwrap();
    };
    replace();
    lab.config.backends.firecracker.binary = Some(program.clone());
    let open = async || {
        let options = PoolOptions::new(1).with_warm(0).with_standby(STANDBY);
        let pool = Pool::open(lab.launcher().await, options).await.unwrap();
        pool.warmup().await.unwrap();
        pool
    };
    let old = open().await;
    let same = open().await;
    assert_eq!(same.standby_pids(), old.standby_pids());
    assert!(old.launcher().hypervisor().is_current());
    replace();
    assert!(!old.launcher().hypervisor().is_current());
    let new = open().await;
    assert_eq!(new.standby_pids().len(), STANDBY);
    for pid in new.standby_pids() {
        assert!(!old.standby_pids().contains(&pid), "{pid} runs the old one");
        let running = std::fs::metadata(format!("/proc/{pid}/exe")).unwrap();
        let there = std::fs::metadata(&program).unwrap();
        assert_eq!(running.ino(), there.ino());
    }
    for pool in [old, same, new] {
        pool.close().await;
    }
    lab.until_no_home();
}
