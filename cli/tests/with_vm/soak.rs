//! `ironclaw soak`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Signal, kill_process};

use crate::apart::pid;
use crate::command::ironclaw;
use crate::vm::{runs, state};

#[test]
fn a_signal_ends_a_soak_whatever_it_does_and_leaves_nothing() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (phase, code) in [("warming up", 130), ("healing", 0)] {
        let mut child = ironclaw(&["soak", "--spawns=1", "--faults", "--json"])
            .env("IRONCLAW_SNAPSHOT_PATH", state.path().join("snapshots"))
            .env("IRONCLAW_POOL_SIZE", "2")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(phase)), "{phase}");
        kill_process(pid(child.id()), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{phase}: {output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if code == 0 {
            assert_eq!(report["interrupted"], true, "{report:#}");
            let skipped = report["skipped"].to_string();
            assert!(skipped.contains("healing"), "{skipped}");
        } else {
            assert_eq!(report["exit_code"], code, "{report:#}");
        }
        let soaks = fs::read_dir(state.path().join(".ironclaw-soak")).unwrap();
        assert_eq!(soaks.count(), 0, "{phase}");
    }
}

#[test]
fn a_daemon_that_is_restarted_and_killed_loses_nothing_that_it_must_keep() {
    if !runs() {
        return;
    }
    // Other soaks run beside the other tests' snapshots.
    let own = state().join("soaked-daemon");
    let output = ironclaw(&[
        "soak",
        "--api",
        "--for=15s",
        "--concurrency=3",
        "--faults",
        "--json",
    ])
    .env("IRONCLAW_POOL_SIZE", "1")
    .env("IRONCLAW_SNAPSHOT_PATH", own.join("snapshots"))
    .output()
    .unwrap();
    assert!(output.status.success(), "{output:#?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(
        report["requests"]["create"].as_u64() > Some(0),
        "{report:#}"
    );
    let faults = report["faults"].as_object().unwrap();
    assert!(!faults.is_empty(), "{report:#}");
    let left = fs::read_dir(own.join(".ironclaw-soak")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_short_soak_with_faults_ends_with_nothing_left() {
    if !runs() {
        return;
    }
    let output = ironclaw(&["soak", "--for=15s", "--concurrency=4", "--faults", "--json"])
        .env("IRONCLAW_POOL_SIZE", "2")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:#?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(report["spawns"].as_u64() > Some(0), "{report:#}");
    let served = &report["served"][0];
    assert!(served["spawn_ms"]["p50"].as_f64() > Some(0.0), "{report:#}");
    assert!(report["vmm"]["version"].is_string(), "{report:#}");
    let faults = report["faults"].as_object().unwrap();
    assert!(!faults.is_empty(), "{report:#}");
    let left: Vec<_> = fs::read_dir(state().join(".ironclaw-soak"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
