//! Tests network interfaces and CPU templates with a real Firecracker.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_orchestrator::vm::firecracker::settings::Taps;
use ironclaw_orchestrator::vm::{Launcher, Origin};
use ironclaw_test_harness::skipped;

use crate::jail::may_jail;
use crate::lab::{Lab, pool, run};
use crate::real::unless_required;

/// Checks that a VM of each tier answers.
async fn serves(launcher: &Launcher) {
    let cold = launcher.cold_boot("cold").await.unwrap();
    assert_eq!(run(&cold, ["echo", "here"]).await, "here\n");
    cold.destroy().await.unwrap();
    let pool = pool(launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let warm = pool.spawn("warm").await.unwrap();
    assert_eq!(warm.origin(), Origin::Warm);
    assert_eq!(run(&warm, ["echo", "here"]).await, "here\n");
    warm.destroy().await.unwrap();
    pool.close().await;
}

/// Returns whether the VMM `pid` has that file open.
fn has_open(pid: u32, path: &std::path::Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    files
        .filter_map(|file| fs::read_link(file.unwrap().path()).ok())
        .any(|open| open == path)
}

/// Network devices of this host, removed with the test.
struct Network {
    namespace: Option<String>,
    taps: Vec<String>,
}

impl Network {
    /// Creates them; `None` where that is not possible: without root, `ip` or /dev/net/tun.
    fn make(name: &str, taps: usize, in_namespace: bool) -> Option<Self> {
        let names = (0..taps).map(|n| format!("ic{}{name}{n}", std::process::id() % 100_000));
        let mut network = Self {
            namespace: None,
            taps: Vec::new(),
        };
        if in_namespace {
            let namespace = format!("ironclaw-{}-{name}", std::process::id());
            if !ip(&["netns", "add", &namespace]) {
                skipped(unless_required("no network namespaces".to_owned()));
                return None;
            }
            network.namespace = Some(namespace);
        }
        for tap in names {
            let mut arguments = Vec::new();
            if let Some(namespace) = &network.namespace {
                arguments.extend(["-n", namespace.as_str()]);
            }
            arguments.extend(["tuntap", "add", "dev", &tap, "mode", "tap"]);
            if !ip(&arguments) {
                skipped(unless_required("no tap devices".to_owned()));
                return None;
            }
            network.taps.push(tap);
        }
        Some(network)
    }

    fn setting(&self) -> Taps {
        let tap = |tap: &String| match &self.namespace {
            None => tap.clone(),
            Some(namespace) => format!("/run/netns/{namespace}:{tap}"),
        };
        let all: Vec<_> = self.taps.iter().map(tap).collect();
        all.join(",").parse().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        match &self.namespace {
            Some(namespace) => {
                ip(&["netns", "del", namespace]);
            }
            None => self.taps.iter().for_each(|tap| {
                ip(&["tuntap", "del", "dev", tap, "mode", "tap"]);
            }),
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let ran = Command::new("ip").args(arguments).output();
    ran.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_vm_has_a_network_interface_on_a_tap_device_of_its_own() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let Some(network) = Network::make("a", 2, false) else {
        return;
    };
    lab.config.backends.firecracker.taps = network.setting();
    let (launcher, snapshot) = lab.snapshot().await;
    let one = launcher.restore_vm(&snapshot, "one").await.unwrap();
    let two = launcher.restore_vm(&snapshot, "two").await.unwrap();
    for vm in [&one, &two] {
        assert!(has_open(vm.pid(), "/dev/net/tun".as_ref()));
        assert_eq!(run(vm, ["echo", "here"]).await, "here\n");
    }
    let error = launcher.restore_vm(&snapshot, "three").await.unwrap_err();
    assert!(error.to_string().contains("tap device"), "{error}");
    one.destroy().await.unwrap();
    drop(launcher.restore_vm(&snapshot, "four").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_vm_has_a_tap_device_of_its_network_namespace() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    if !may_jail(&lab) {
        return;
    }
    let Some(network) = Network::make("j", 2, true) else {
        return;
    };
    lab.config.backends.firecracker.taps = network.setting();
    lab.config.jail = JailChoice::On;
    let (launcher, snapshot) = lab.snapshot().await;
    let vm = launcher.restore_vm(&snapshot, "jailed").await.unwrap();
    let namespace = fs::metadata(format!("/proc/{}/ns/net", vm.pid())).unwrap();
    let named = format!("/run/netns/{}", network.namespace.as_ref().unwrap());
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(namespace.ino(), fs::metadata(named).unwrap().ino());
    assert_eq!(run(&vm, ["echo", "here"]).await, "here\n");
    vm.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_template_is_applied_or_refused_in_firecrackers_words() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let template = lab.path().join("cpu.json");
    lab.config.backends.firecracker.cpu_template = Some(template.clone());

    // Hides AVX2 and the other features in the first word of leaf 7.
    let hidden = format!("0b{}", "0".repeat(32));
    let json = serde_json::json!({ "cpuid_modifiers": [{
        "leaf": "0x7", "subleaf": "0x0", "flags": 1,
        "modifiers": [{ "register": "ebx", "bitmap": hidden }],
    }]});
    fs::write(&template, json.to_string()).unwrap();
    serves(&lab.launcher().await).await;

    fs::write(&template, r#"{"no_such_field": 1}"#).unwrap();
    let error = lab.launcher().await.cold_boot("refused").await.unwrap_err();
    assert!(error.to_string().contains("no_such_field"), "{error}");

    fs::write(&template, "no JSON").unwrap();
    let opened = Launcher::open(&lab.config, Arc::new(|_: &_| {})).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("cpu.json"), "{error}");
}
