//! `ironclaw snapshot`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ironclaw_orchestrator::vm::snapshot::{Checkpoint, Host, Requirements, SnapshotStore, Staging};
use ironclaw_orchestrator::vm::vmm::{Machine, VmmIdentity, VmmKind};
use predicates::prelude::*;
use predicates::str::contains;

use crate::state::{ironclaw, state};

#[test]
fn an_empty_store_is_an_empty_list() {
    let state = state();
    for words in [["snapshot", "list"], ["template", "list"]] {
        ironclaw(state.path())
            .args(words)
            .arg("--json")
            .assert()
            .success()
            .stdout("[]\n");
    }
    let stats = ironclaw(state.path())
        .args(["pool", "stats", "--json"])
        .assert()
        .success();
    let stats: serde_json::Value = serde_json::from_slice(&stats.get_output().stdout).unwrap();
    assert_eq!(stats["size"], 5);
    assert_eq!(stats["fit"], 0);
    assert_eq!(stats["snapshots"].as_array().map(Vec::len), Some(0));
}

/// Publishes a base, and a checkpoint of a VM that was restored from it.
fn with_a_checkpoint(state: &Path) -> [String; 2] {
    let needs = Requirements {
        template: "0".repeat(64).parse().unwrap(),
        vmm: VmmIdentity::new(VmmKind::new("QEMU"), "7.2.0", "tcg"),
        machine: Machine::new(1, 1),
        host: Host::current(None).unwrap(),
    };
    let checkpoint = Checkpoint {
        owner: "somebody".to_owned(),
        of: "vm-1".to_owned(),
        keep_until: None,
    };
    let store = SnapshotStore::open(state.join("snapshots")).unwrap();
    let publish = |staging: Staging| {
        fs::write(staging.memory(), vec![0; 1 << 20]).unwrap();
        fs::write(staging.vmstate(), "devices").unwrap();
        let description = needs.clone().describe(0);
        staging.publish(description).unwrap().snapshot.id()
    };
    let base = publish(store.stage(&needs).unwrap());
    let staging = store.stage_checkpoint(&needs, checkpoint, Some(base));
    [base, publish(staging.unwrap())].map(|id| id.to_string())
}

#[test]
fn a_checkpoint_is_shown_as_one_and_deleted_by_its_id_alone() {
    let state = state();
    let [base, checkpoint] = with_a_checkpoint(state.path());
    let json = |words: &[&str]| -> serde_json::Value {
        let shown = ironclaw(state.path()).args(words).assert().success();
        serde_json::from_slice(&shown.get_output().stdout).unwrap()
    };
    let listed = json(&["snapshot", "list", "--json"]);
    let stats = json(&["pool", "stats", "--json"]);
    for rows in [&listed, &stats["snapshots"]] {
        assert_eq!(rows[0]["kind"], "base");
        assert!(rows[0]["parent"].is_null());
        assert_eq!(rows[1]["kind"], "checkpoint");
        assert_eq!(rows[1]["parent"], base.as_str());
        assert!(rows[1]["age_seconds"].is_u64());
    }
    assert_eq!(stats["fit"], 0);
    let owner = &listed[1]["manifest"]["kind"]["checkpoint"]["owner"];
    assert_eq!(owner, "somebody");
    let why = stats["snapshots"][1]["error"].as_str().unwrap();
    assert!(why.contains("checkpoint"), "{why}");
    for words in [["snapshot", "list"], ["pool", "stats"]] {
        ironclaw(state.path())
            .args(words)
            .assert()
            .success()
            .stdout(contains("checkpoint").and(contains(&base)));
    }

    ironclaw(state.path())
        .args(["snapshot", "delete", "--all"])
        .assert()
        .success()
        .stdout(contains(&base).and(contains(&checkpoint).not()))
        .stderr(contains("by their ids"));
    assert_eq!(json(&["snapshot", "list", "--json"])[0]["id"], *checkpoint);
    ironclaw(state.path())
        .args(["snapshot", "delete", &checkpoint])
        .assert()
        .success();
    assert_eq!(json(&["snapshot", "list", "--json"]), serde_json::json!([]));
}

#[test]
fn a_snapshot_that_does_not_exist_is_a_finding_of_verify_and_an_error_of_delete() {
    let state = state();
    let id = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f";
    ironclaw(state.path())
        .args(["snapshot", "verify", id])
        .assert()
        .code(1)
        .stdout(contains(id).and(contains("no snapshot")));
    ironclaw(state.path())
        .args(["snapshot", "delete", id])
        .assert()
        .code(125)
        .stderr(contains("1 of 1"));
}

#[test]
fn a_snapshot_directory_that_is_a_file_is_named_with_what_to_do() {
    let state = state();
    let file = state.path().join("snapshots");
    fs::write(&file, "").unwrap();
    ironclaw(state.path())
        .args(["snapshot", "list"])
        .assert()
        .code(119)
        .stderr(contains(file.display().to_string()).and(contains("IRONCLAW_SNAPSHOT_PATH")));
}

/// Root may read anything, so this tests the one thing that every user is refused: a directory that
/// others may write to.
#[test]
fn a_snapshot_directory_open_to_others_is_named_with_what_to_do() {
    let state = state();
    let directory = state.path().join("snapshots");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    ironclaw(state.path())
        .args(["snapshot", "list"])
        .assert()
        .code(119)
        .stderr(contains(directory.display().to_string()).and(contains("0777")));
}
