//! Tests `ironclaw bench` with real VMs. `cargo xtask test` installs their requirements; without
//! these each test is ignored, with the reason.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

mod vm;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

/// Returns the shortest possible bench, with figures as JSON.
fn bench(snapshots: &Path) -> Command {
    let mut command = vm::ironclaw("bench", &["bench", "--quick", "--rounds=1", "--json"]);
    command.env("IRONCLAW_SNAPSHOT_PATH", snapshots);
    command
}

/// Starts a bench and waits until it has its snapshot; returns the rest of its output.
fn measuring(snapshots: &Path) -> (Child, BufReader<impl std::io::Read>) {
    let mut child = bench(snapshots)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("restored spawn") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended");
    }
    (child, said)
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_bench_tells_what_it_measured_and_fails_where_a_ratio_is_grossly_worse() {
    if !vm::runs() {
        return;
    }
    // Ratios of every backend: no clone takes as little as this.
    let sections = ["qemu-tcg", "qemu-kvm", "firecracker-kvm"].map(|vmm| {
        format!(
            "[{vmm}]\nmemory_mib = 128\nvcpus = 1\n[{vmm}.ratios]\nrestored_of_cold_boot = 1000\n\
             warm_of_restored = 1000\nwarm_of_cold_boot = 1000\nwarm_of_floor = 1000\n\
             restored_of_floor = 1000\nclone_of_guest_memory = 0.000001\n\
             disk_of_guest_memory = 1000\n"
        )
    });
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ratios = directory.path().join("ratios.toml");
    fs::write(&ratios, sections.concat()).unwrap();
    let snapshots = directory.path().join("snapshots");
    let output = bench(&snapshots)
        .arg("--compare")
        .arg(&ratios)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (index, tier) in ["warm", "restored", "cold_boot"].iter().enumerate() {
        let measured = &report["tiers"][index];
        assert_eq!(measured["origin"], *tier);
        assert_eq!(measured["spawn_ms"]["samples"], 1);
        assert!(measured["spawn_ms"]["p50"].as_f64() > Some(0.0));
        assert!(measured["stages_ms"]["hello"]["p99"].as_f64() > Some(0.0));
    }
    assert!(report["cache"]["before_bytes"].as_u64() > Some(0));
    assert!(report["clones"][0]["uss_bytes"]["p50"].as_u64() > Some(0));
    let compared = report["comparison"]["ratios"].as_array().unwrap();
    let broken = compared.iter().filter(|ratio| ratio["broken"] == true);
    let broken: Vec<_> = broken.map(|ratio| &ratio["name"]).collect();
    assert_eq!(broken, ["clone_of_guest_memory"]);
    // The bench had a snapshot of its own.
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 0);
}

/// Returns the texts in a picture.
fn texts(svg: &Path) -> Vec<String> {
    let source = fs::read_to_string(svg).unwrap();
    let document = roxmltree::Document::parse(&source).unwrap();
    assert!(
        document
            .root_element()
            .has_tag_name(("http://www.w3.org/2000/svg", "svg"))
    );
    let nodes = document.descendants();
    nodes
        .filter(|node| node.tag_name().name() == "text")
        .map(|node| node.text().unwrap_or_default().trim().to_owned())
        .collect()
}

#[test]
fn a_bench_draws_all_that_it_measured() {
    if !vm::runs() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plots = directory.path().join("new/plots");
    let snapshots = directory.path().join("snapshots");
    let old = vm::old_snapshot("bench", &snapshots);
    let output = vm::ironclaw("bench", &["bench", "--rounds=1", "--plot"])
        .arg(&plots)
        .env("IRONCLAW_SNAPSHOT_PATH", &snapshots)
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_POOL_SIZE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with(&format!("plots: {}\n", plots.display())));
    let kept = snapshots.join(old);
    assert!(kept.exists(), "it was replaced while it was measured");
    let tiers = ["warm", "restored", "cold boot"];
    let curves = tiers.map(|tier| format!("{tier} (median "));
    let bars = tiers.map(|tier| format!("{tier}: "));
    let clones = ["of one snapshot", "PSS, of one snapshot"].map(str::to_owned);
    let loads = ["burst from warm clones", "sustained, median"].map(str::to_owned);
    let pictures = [
        ("latency.svg", &curves[..]),
        ("stages.svg", &bars),
        ("memory.svg", &clones),
        ("throughput.svg", &loads),
    ];
    assert_eq!(list(&plots).len(), pictures.len());
    for (file, names) in pictures {
        let texts = texts(&plots.join(file));
        for name in names {
            let there = texts.iter().any(|text| text.starts_with(name.as_str()));
            assert!(there, "{file} has no {name:?}: {texts:?}");
        }
        assert!(texts.iter().any(|text| text.contains("QEMU")), "{texts:?}");
    }
}

#[test]
fn the_first_command_of_warm_clones_is_compared_with_the_second_and_a_failure_is_told() {
    if !vm::runs() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let snapshots = directory.path().join("snapshots");
    let first = |script: &str| {
        let words = [
            "bench",
            "--rounds=2",
            "--at-once=2",
            "--json",
            "--",
            "sh",
            "-c",
            script,
        ];
        let mut bench = vm::ironclaw("bench", &words);
        bench.env("IRONCLAW_SNAPSHOT_PATH", &snapshots);
        bench.output().unwrap()
    };
    // Takes longer the first time in each clone.
    let output = first("[ -e /tmp/ran ] || { sleep 1; touch /tmp/ran; }");
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for runs in [&report["alone"], &report["at_once"]] {
        assert_eq!(runs["first_ms"]["samples"], 2, "{report}");
        assert!(runs["first_ms"]["min"].as_f64() >= Some(1000.0), "{report}");
        assert!(runs["first_of_second_p50"].as_f64() > Some(1.0), "{report}");
    }
    assert_eq!(report["at_once"]["clones"], 2);
    assert_eq!(
        report["spawn_ms"]["samples"],
        report["minimal_spawn_ms"]["samples"]
    );
    let output = first("echo of its own accord >&2; exit 3");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("exit code 3") && told.contains("of its own accord"),
        "{told}"
    );
    assert_eq!(list(&snapshots), Vec::<PathBuf>::new());
}

#[test]
fn a_bench_that_is_interrupted_leaves_nothing() {
    if !vm::runs() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let snapshots = directory.path().join("snapshots");
    let (child, mut said) = measuring(&snapshots);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest}");
    assert_eq!(list(&snapshots), Vec::<PathBuf>::new(), "{rest}");
}

#[test]
fn a_bench_that_is_interrupted_while_it_publishes_its_snapshot_leaves_nothing() {
    if !vm::runs() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let snapshots = directory.path().join("snapshots");
    let child = bench(&snapshots)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its VMM has written the state and ended.
    let written = || {
        let made = fs::read_dir(&snapshots).into_iter().flatten();
        made.flatten()
            .any(|entry| entry.path().join("vmstate").exists())
    };
    let start = Instant::now();
    while !written() || !vm::children(child.id()).is_empty() {
        assert!(start.elapsed() < vm::TIMEOUT, "no snapshot is made");
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(list(&snapshots), Vec::<PathBuf>::new(), "{output:?}");
}

#[test]
fn a_bench_whose_snapshot_another_process_uses_tells_its_figures_all_the_same() {
    if !vm::runs() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let snapshots = directory.path().join("snapshots");
    let (child, mut said) = measuring(&snapshots);
    let snapshot = list(&snapshots).pop().unwrap();
    let used = File::open(&snapshot).unwrap();
    flock(&used, FlockOperation::LockShared).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{rest}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tiers"].as_array().unwrap().len(), 3);
    assert!(rest.contains("in use by"), "{rest}");
    assert_eq!(list(&snapshots), [snapshot]);
}

#[test]
fn a_bench_of_the_api_compares_a_daemon_of_its_own_with_the_library_and_ends_it() {
    if !vm::runs() {
        return;
    }
    let arguments = [
        "bench",
        "--api",
        "--rounds=1",
        "--at-once=2",
        "--warm=1",
        "--json",
    ];
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = vm::ironclaw("bench", &arguments);
    command.env("IRONCLAW_SNAPSHOT_PATH", directory.path().join("snapshots"));
    command.env("TMPDIR", directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (way, count) in [("one_by_one", 1), ("staggered", 1), ("at_once", 2)] {
        for side in ["library", "api"] {
            let times = &report[way][side];
            let [create, first] = ["create_ms", "first_command_ms"].map(|time| &times[time]);
            assert_eq!(create["samples"], count, "{report}");
            assert!(create["p50"].as_f64() < first["p50"].as_f64(), "{report}");
        }
    }
    assert_eq!(report["listed"], 2);
    assert!(report["daemon"]["rss_bytes"].as_u64() > Some(0), "{report}");
    // The daemon's directory is gone.
    assert_eq!(list(directory.path()), [directory.path().join("snapshots")]);
}
