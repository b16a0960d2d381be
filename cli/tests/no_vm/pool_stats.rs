//! `ironclaw pool stats` in its three formats.

use assert_cmd::Command;
use ironclaw_test_harness::skipped;

use crate::state::{ironclaw, with_a_broken_snapshot};

#[test]
fn figures_are_the_same_as_a_table_as_json_and_for_prometheus() {
    let state = with_a_broken_snapshot();
    let stats = |format: &str| {
        let figures = ironclaw(state.path())
            .env("IRONCLAW_MAX_VMS", "7")
            .env("IRONCLAW_MEMORY_BUDGET_MIB", "1024")
            .args(["pool", "stats", "--format", format])
            .assert()
            .success();
        String::from_utf8(figures.get_output().stdout.clone()).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&stats("json")).unwrap();
    assert_eq!(json["max_vms"], 6, "each takes 32 MiB more than its guest");
    assert_eq!(json["memory_budget_bytes"], 1 << 30);
    assert_eq!(json["disk_budget_bytes"], 100 << 20);
    assert_eq!(json["refresh_seconds"], 3600);
    let snapshot = &json["snapshots"][0];
    let id = snapshot["id"].as_str().unwrap();
    let bytes = snapshot["disk_bytes"].as_u64().unwrap();
    assert!(bytes >= 200 << 10);
    assert!(snapshot["age_seconds"].is_null() && snapshot["fits"] == false);
    let listed = ironclaw(state.path())
        .args(["snapshot", "list", "--json"])
        .assert()
        .success();
    let listed: serde_json::Value = serde_json::from_slice(&listed.get_output().stdout).unwrap();
    assert!(snapshot["error"].is_string());
    assert_eq!(snapshot["error"], listed[0]["error"]);

    let table = stats("table");
    for part in [
        id,
        "0 of 5",
        "room for 6 VMs",
        "1024.0 MiB",
        "1%",
        "manifest.json is missing",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }

    let text = stats("prometheus");
    for line in [
        "ironclaw_pool_size 5".to_owned(),
        "ironclaw_pool_snapshots_fit 0".to_owned(),
        "ironclaw_pool_vms_limit 6".to_owned(),
        format!("ironclaw_snapshot_disk_bytes{{snapshot=\"{id}\"}} {bytes}"),
        format!("ironclaw_snapshot_in_use{{snapshot=\"{id}\"}} 0"),
        format!("ironclaw_snapshot_fits{{snapshot=\"{id}\"}} 0"),
    ] {
        assert!(text.lines().any(|there| there == line), "{line}: {text}");
    }
    assert!(!text.contains("ironclaw_snapshot_age_seconds{"), "{text}");
}

#[test]
fn prometheus_has_nothing_to_say_against_the_figures() {
    if let Err(error) = std::process::Command::new("promtool").output() {
        return skipped(format!("promtool (Debian package prometheus): {error}"));
    }
    let state = with_a_broken_snapshot();
    let figures = ironclaw(state.path())
        .args(["pool", "stats", "--format", "prometheus"])
        .assert()
        .success();
    Command::new("promtool")
        .args(["check", "metrics"])
        .write_stdin(figures.get_output().stdout.clone())
        .assert()
        .success()
        .stdout("")
        .stderr("");
}
