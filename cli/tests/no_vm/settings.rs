//! Settings, and where they come from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

use crate::state::{ironclaw, state};

#[test]
fn a_bad_setting_is_named_with_its_value_and_range_for_every_command() {
    let state = state();
    for (variable, value, range) in [
        ("IRONCLAW_POOL_SIZE", "21", "1-20"),
        ("IRONCLAW_POOL_SIZE", "five", "1-20"),
        ("IRONCLAW_SNAPSHOT_REFRESH_SECS", "59", "60"),
        ("IRONCLAW_BACKEND", "xen", "qemu"),
        ("IRONCLAW_MEMORY_MIB", "1", "16384"),
        ("RUST_LOG", "ironclaw=loud", "debug"),
    ] {
        for words in [&["run", "--", "true"][..], &["pool", "stats"], &["doctor"]] {
            ironclaw(state.path())
                .env(variable, value)
                .args(words)
                .assert()
                .code(121)
                .stdout("")
                .stderr(
                    contains(variable)
                        .and(contains(format!("{value:?}")))
                        .and(contains(range))
                        .and(contains("ironclaw: error: ")),
                );
        }
    }
}

/// Creates a file with these settings that nobody else can change.
fn settings(state: &TempDir, text: &str) -> PathBuf {
    let path = state.path().join("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn config_show_names_the_source_a_flag_before_a_variable_before_a_file() {
    let state = tempfile::tempdir().unwrap();
    let file = settings(&state, "pool_size = 2\nmin_warm = 3\n\nvcpus = 4\n");
    let show = |json: &[&str]| {
        let mut command = ironclaw(state.path());
        command
            .args(["config", "show", "--set", "pool_size=7"])
            .args(json);
        let command = command.env("IRONCLAW_CONFIG", &file);
        let output = command.env("IRONCLAW_MIN_WARM", "5").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
    assert_eq!(shown["file"], file.to_str().unwrap());
    for (key, value, from) in [
        ("pool_size", serde_json::json!(7), "flag"),
        ("min_warm", serde_json::json!(5), "variable"),
        ("max_warm", serde_json::json!(5), "default"),
        ("vcpus", serde_json::json!(4), "file"),
        ("memory_mib", serde_json::json!(128), "default"),
        ("taps", serde_json::Value::Null, "default"),
    ] {
        let setting = &shown["settings"][key];
        assert_eq!(
            (&setting["value"], &setting["from"]),
            (&value, &from.into()),
            "{key}"
        );
    }
    assert_eq!(shown["settings"]["vcpus"]["line"], 4);
    let text = show(&[]);
    for part in [
        format!("{}:4", file.display()),
        "IRONCLAW_MIN_WARM".to_owned(),
        "--set".to_owned(),
    ] {
        assert!(text.contains(&part), "{text}");
    }
}

#[test]
fn an_error_in_a_settings_file_names_its_line_and_the_nearest_name() {
    let state = tempfile::tempdir().unwrap();
    for (text, parts) in [
        (
            "\npool_sise = 2\n",
            &["config.toml:2:", "is it \"pool_size\"?"][..],
        ),
        (
            "pool_size = 50\n",
            &["config.toml:1: pool_size=\"50\"", "1-20"],
        ),
        ("pool_size = \n", &["config.toml:1:"]),
    ] {
        let file = settings(&state, text);
        for task in [
            &["config", "show"][..],
            &["pool", "stats"],
            &["run", "--", "true"],
        ] {
            let mut assert = ironclaw(state.path())
                .args(task)
                .env("IRONCLAW_CONFIG", &file)
                .assert()
                .code(121);
            for part in parts {
                assert = assert.stderr(contains(*part));
            }
        }
    }
    let file = settings(&state, "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let mut writable = ironclaw(state.path());
    let writable = writable
        .args(["config", "show"])
        .env("IRONCLAW_CONFIG", &file);
    writable.assert().code(121).stderr(contains("chmod go-w"));
    let mut unknown = ironclaw(state.path());
    let unknown = unknown.args(["config", "show", "--set", "jal=off"]);
    unknown
        .assert()
        .code(121)
        .stderr(contains("is it \"jail\"?"));
}

#[test]
fn a_misspelt_setting_is_warned_of() {
    let state = state();
    ironclaw(state.path())
        .env("IRONCLAW_POOLSIZE", "3")
        .args(["snapshot", "list", "--json"])
        .assert()
        .success()
        .stdout("[]\n")
        .stderr(contains("IRONCLAW_POOLSIZE is no setting"));
}
