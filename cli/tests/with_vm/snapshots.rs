//! Snapshots that runs make, share and replace.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::{ironclaw, run, started, text};
use crate::vm;
use crate::vm::runs;

#[test]
fn an_old_snapshot_serves_a_run_as_it_is_and_a_warm_up_replaces_it() {
    if !runs() {
        return;
    }
    let snapshots = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let old = vm::old_snapshot("command-line", snapshots.path());
    let here = |arguments: &[&str]| {
        let mut command = ironclaw(arguments);
        command.env("IRONCLAW_SNAPSHOT_PATH", snapshots.path());
        command.env("IRONCLAW_POOL_SIZE", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (json, output.stderr)
    };
    // Every build creates a directory there, at least for a moment.
    let changed = || fs::metadata(snapshots.path()).unwrap().modified().unwrap();
    let before = changed();
    let (run, said) = here(&["run", "--json", "--", "sleep", "1"]);
    assert_eq!(run["origin"], "restored");
    assert_eq!(text(&said), "");
    assert_eq!(changed(), before, "something was built beside the command");
    let (warmup, _) = here(&["pool", "warmup", "--json"]);
    assert_eq!(
        (&warmup["found"], &warmup["snapshots"]),
        (&0.into(), &1.into())
    );
    let (left, _) = here(&["snapshot", "list", "--json"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_ne!(left[0]["id"], *old);
    let (again, _) = here(&["pool", "warmup", "--json"]);
    assert_eq!(again["found"], 1);
}

#[test]
fn many_runs_at_once_on_an_empty_directory_share_the_snapshot_of_one() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let here = |arguments: &[&str]| {
        let mut command = ironclaw(arguments);
        command.env("IRONCLAW_SNAPSHOT_PATH", state.path().join("snapshots"));
        command
    };
    let runs: Vec<_> = (0..10)
        .map(|n| {
            here(&["run", "--", "echo", &n.to_string()])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let pids: Vec<u32> = runs.iter().map(Child::id).collect();
    let mut waited = 0;
    for (n, run) in runs.into_iter().enumerate() {
        let output = run.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), format!("{n}\n"), "{output:?}");
        let said = text(&output.stderr).lines();
        for line in said.filter(|line| line.contains("waiting for ")) {
            waited += 1;
            let named = |pid: &u32| line.contains(&format!("ironclaw (process {pid})"));
            assert!(pids.iter().any(named), "{line}");
        }
    }
    assert!(waited > 0, "nobody said that it waited");
    let list = here(&["snapshot", "list", "--json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list[0]["in_use"], false);
    let created = &list[0]["manifest"]["created"]["unix_seconds"];
    assert_eq!(&list[0]["created"], created);
}

#[test]
fn the_user_of_a_snapshot_is_named() {
    if !runs() {
        return;
    }
    let (mut child, _) = started(ironclaw(&[]));
    let list = ironclaw(&["snapshot", "list", "--json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let used = |row: &&serde_json::Value| {
        let owners = row["owners"].as_array().unwrap();
        owners.iter().any(|owner| owner["pid"] == child.id())
    };
    let row = list.as_array().unwrap().iter().find(used);
    let id = row.expect("a snapshot of that process")["id"]
        .as_str()
        .unwrap();
    let delete = ironclaw(&["snapshot", "delete", id]).output().unwrap();
    assert_eq!(delete.status.code(), Some(125), "{delete:?}");
    let owner = format!("ironclaw (process {})", child.id());
    assert!(text(&delete.stdout).contains(&owner), "{delete:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_a_hypervisor_snapshots_are_listed_with_the_reason_why_none_fits() {
    if !runs() {
        return;
    }
    assert!(run(&["--", "true"]).status.success());
    let stats = ironclaw(&["pool", "stats", "--json"])
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", "/no/such/qemu")
        .output()
        .unwrap();
    assert!(stats.status.success(), "{stats:?}");
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats["fit"], 0);
    let error = stats["snapshots"][0]["error"].as_str().unwrap();
    assert!(error.contains("/no/such/qemu"), "{error}");
}

#[test]
fn a_warm_up_tells_what_was_there_and_what_it_took() {
    if !runs() {
        return;
    }
    let snapshots = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for found in [0, 1] {
        let warmup = ironclaw(&["pool", "warmup", "--json"])
            .env("IRONCLAW_SNAPSHOT_PATH", snapshots.path())
            .env("IRONCLAW_POOL_SIZE", "1")
            .output()
            .unwrap();
        assert!(warmup.status.success(), "{warmup:?}");
        let report: serde_json::Value = serde_json::from_slice(&warmup.stdout).unwrap();
        assert_eq!(report["snapshots"], 1);
        assert_eq!(report["found"], found);
        assert!(report["took_ms"].as_f64() > Some(0.0));
    }
}

#[test]
fn a_refresh_by_hand_deletes_what_is_old_and_used_by_nobody() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Of an older release: no sweep may remove it, and nobody here can use it.
    let make = |age: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time = (now.as_secs() - age) * 1000;
        let (high, low) = (time >> 16, time & 0xffff);
        let name = format!("{high:08x}-{low:04x}-7000-8000-000000000000");
        let path = state.path().join(name);
        fs::create_dir(&path).unwrap();
        let mark = "IronClaw made this directory, and removes it with all that is in it.\n";
        fs::write(path.join(".ironclaw"), mark).unwrap();
        fs::write(path.join("manifest.json"), r#"{"format": 1}"#).unwrap();
        path
    };
    let (old, young) = (make(2 * 3600), make(600));
    let refresh = ironclaw(&["pool", "refresh", "--json"])
        .env("IRONCLAW_SNAPSHOT_PATH", state.path())
        .env("IRONCLAW_POOL_SIZE", "1")
        .env("IRONCLAW_SNAPSHOT_REFRESH_SECS", "3600")
        .output()
        .unwrap();
    assert!(refresh.status.success(), "{refresh:?}");
    let report: serde_json::Value = serde_json::from_slice(&refresh.stdout).unwrap();
    assert_eq!(report["snapshots"], 1);
    assert_eq!(report["deleted"], serde_json::json!([old]));
    assert!(!old.exists() && young.exists());
}
