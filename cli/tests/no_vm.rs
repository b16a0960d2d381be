//! Tests of `ironclaw` without a VM.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_orchestrator::vm::snapshot::{
    Checkpoint, Description, Host, Requirements, SnapshotStore, Staging,
};
use ironclaw_orchestrator::vm::vmm::{Machine, VmmIdentity, VmmKind};
use ironclaw_test_harness::skipped;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

/// Returns `ironclaw` with no settings but directories of its own below `state`.
/// A file that sets nothing.
fn no_settings() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-settings.toml");
    // Complete at once, for tests that run at the same time.
    fs::write(&path, "").unwrap();
    path
}

fn ironclaw(state: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ironclaw"));
    for setting in SETTINGS {
        command.env_remove(setting.variable());
    }
    // Not that of who runs the tests.
    command.env("IRONCLAW_CONFIG", no_settings());
    command.env_remove("RUST_LOG");
    command.env("IRONCLAW_SNAPSHOT_PATH", state.join("snapshots"));
    command.env("IRONCLAW_TEMPLATE_PATH", state.join("templates"));
    command.env("IRONCLAW_RUN_PATH", state.join("run"));
    command
}

fn state() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_has_examples_variables_and_exit_codes() {
    let state = state();
    let mut help = ironclaw(state.path())
        .args(["run", "--help"])
        .assert()
        .success();
    for text in [
        "Examples:",
        "Exit codes:",
        "124",
        "IRONCLAW_POOL_SIZE",
        "1-20",
    ] {
        help = help.stdout(contains(text));
    }
}

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

#[test]
fn a_failure_is_one_json_value_where_json_is_asked_for() {
    let state = state();
    let unknown = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f";
    for words in [
        &["run", "--", "true"][..],
        &["pool", "warmup"],
        &["pool", "stats"],
        &["pool", "stats", "--format=json"],
        &["snapshot", "list"],
        &["snapshot", "create"],
        &["snapshot", "verify", unknown],
        &["template", "list"],
        &["template", "build"],
        &["bench", "--quick"],
        &["soak"],
        &["doctor"],
    ] {
        let mut command = ironclaw(state.path());
        command.env("IRONCLAW_POOL_SIZE", "21");
        if !words.contains(&"--format=json") {
            command.arg("--json");
        }
        let failed = command.args(words).assert().code(121);
        let failure: serde_json::Value =
            serde_json::from_slice(&failed.get_output().stdout).unwrap();
        assert_eq!(failure["exit_code"], 121, "{words:?}");
        assert_eq!(failure["kind"], "setting", "{words:?}");
        let error = failure["error"].as_str().unwrap();
        assert!(error.contains("IRONCLAW_POOL_SIZE"), "{words:?}: {error}");
    }
    // The output shows the failure already.
    let failed = ironclaw(state.path())
        .args(["snapshot", "delete", "--json", unknown])
        .assert()
        .code(125);
    let report: serde_json::Value = serde_json::from_slice(&failed.get_output().stdout).unwrap();
    assert_eq!(report[0]["ok"], false);
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_is_wrong() {
    let state = state();
    for (words, said) in [
        (
            &["run", "--no-such-flag", "--", "true"][..],
            "--no-such-flag",
        ),
        (&["run"], "CMD"),
        (&["run", "--timeout", "0s", "--", "true"], "1ms"),
        (&["run", "--env", "=x", "--", "true"], "NAME=VALUE"),
        (&["run", "--cwd", "tmp", "--", "true"], "absolute"),
        (&["snapshot", "verify"], "--all"),
        (&["template", "delete"], "--all"),
        (&["template", "verify", "../../etc"], "hash"),
        (&["snapshot", "delete", "../../etc"], "UUID"),
        (&["bench", "--rounds", "0"], "1..=1000"),
        (&["bench", "--quick", "--plot", "plots"], "--plot"),
        (&["frobnicate"], "frobnicate"),
    ] {
        ironclaw(state.path())
            .args(words)
            .assert()
            .code(2)
            .stdout("")
            .stderr(contains(said));
    }
}

#[test]
fn a_wrong_command_line_is_one_json_value_too_where_json_is_asked_for() {
    let state = state();
    for (words, said) in [
        (&["--json"][..], "requires a subcommand"),
        (&["--json", "pool"], "a subcommand is missing"),
        (&["--json", "run"], "not provided: <CMD>..."),
        (
            &["run", "--json", "--timeout", "0s", "--", "true"],
            "1ms to 30days",
        ),
        (&["snapshot", "verify", "nonsense", "--json"], "UUID"),
        (&["pool", "stats", "--format", "json", "more"], "more"),
        (
            &["pool", "stats", "--format=json", "--json"],
            "cannot be used with",
        ),
        (&["completions", "bash", "--json"], "prints a script"),
    ] {
        let failed = ironclaw(state.path()).args(words).assert().code(2);
        let output = failed.get_output();
        assert!(!output.stderr.is_empty(), "{words:?}");
        let failure: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(failure["exit_code"], 2, "{words:?}");
        let error = failure["error"].as_str().unwrap();
        assert!(error.contains(said), "{words:?}: {error}");
        assert!(
            !error.contains("error: ") && !error.contains("--help"),
            "{error}"
        );
    }
    // The rest is the guest's command.
    ironclaw(state.path())
        .args(["run", "--bogus", "--", "ls", "--json"])
        .assert()
        .code(2)
        .stdout("");
}

#[test]
fn completions_name_the_commands_and_need_no_valid_settings() {
    let state = state();
    for shell in ["bash", "zsh", "fish"] {
        // The last one is a value of `run --backend`.
        ironclaw(state.path())
            .env("IRONCLAW_POOL_SIZE", "nonsense")
            .args(["completions", shell])
            .assert()
            .success()
            .stdout(
                contains("warmup")
                    .and(contains("doctor"))
                    .and(contains("firecracker")),
            );
    }
}

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

/// The mark's file, and its content.
const MARK: (&str, &str) = (
    ".ironclaw",
    "IronClaw made this directory, and removes it with all that is in it.\n",
);

/// Creates a snapshot directory with nothing but a mark: it has a size and no age, and fits nobody.
fn with_a_broken_snapshot() -> TempDir {
    let state = state();
    let store = state.path().join("snapshots");
    let broken = store.join("0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f");
    fs::create_dir_all(&broken).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(broken.join(MARK.0), MARK.1).unwrap();
    fs::write(broken.join("memory"), vec![1; 200 << 10]).unwrap();
    state
}

/// A script that passes for QEMU until it has to run a guest.
const QEMU_SAYS: &str = "echo QEMU emulator version 7.2.0";

/// Returns everything below a directory, with its content.
fn everything(path: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
                all.push((path, None));
            } else {
                let content = fs::read(&path).unwrap();
                all.push((path, Some(content)));
            }
        }
    }
    all.sort();
    all
}

/// Read-only commands.
const READERS: [&[&str]; 7] = [
    &["doctor"],
    &["pool", "stats"],
    &["pool", "stats", "--format", "prometheus"],
    &["snapshot", "list"],
    &["snapshot", "verify", "--all"],
    &["template", "list"],
    &["template", "verify", "--all"],
];

#[test]
fn a_foreign_entry_in_a_run_path_is_refused_by_name_and_stays() {
    let state = state();
    import_a_kernel(state.path());
    let d = state.path().join("d");
    fs::create_dir_all(d.join("photos")).unwrap();
    fs::set_permissions(&d, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(d.join("photos/a"), "x").unwrap();
    let before = everything(&d);
    let makers: [&[&str]; 4] = [
        &["run", "--", "true"],
        &["pool", "warmup"],
        &["pool", "refresh"],
        &["snapshot", "create"],
    ];
    for words in READERS.iter().chain(&makers) {
        let mut command = ironclaw(state.path());
        command.env("IRONCLAW_RUN_PATH", &d);
        // A hypervisor that starts, on any machine.
        command.env("IRONCLAW_QEMU", program(state.path(), "qemu", QEMU_SAYS));
        command.env("IRONCLAW_BACKEND", "qemu");
        let assert = command.args(*words).assert();
        if makers.contains(words) {
            assert
                .code(121)
                .stderr(contains("photos").and(contains("IRONCLAW_RUN_PATH")));
        } else if words[0] == "doctor" {
            assert
                .code(1)
                .stdout(contains("photos").and(contains("IRONCLAW_RUN_PATH")));
        }
        assert_eq!(everything(&d), before, "{words:?}");
    }
    // Without a template, too.
    fs::remove_dir_all(state.path().join("templates")).unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_RUN_PATH", &d)
        .arg("doctor")
        .assert()
        .code(1)
        .stdout(contains("photos").and(contains("IRONCLAW_RUN_PATH")));
    assert_eq!(everything(&d), before);
}

#[test]
fn state_paths_that_contain_one_another_are_refused_and_nothing_in_them_is_touched() {
    let state = state();
    let srv = state.path().join("ic");
    for path in ["snapshots", "templates", "backup"] {
        fs::create_dir_all(srv.join(path)).unwrap();
        fs::write(srv.join(path).join("file"), "somebody's").unwrap();
    }
    fs::set_permissions(&srv, fs::Permissions::from_mode(0o700)).unwrap();
    let before = everything(&srv);
    let link = state.path().join("link");
    std::os::unix::fs::symlink(&srv, &link).unwrap();
    for run in [
        &srv,
        &link,
        &srv.join("snapshots/run"),
        &srv.join("templates"),
    ] {
        for words in READERS.iter().chain(&[&["run", "--", "true"][..]]) {
            ironclaw(state.path())
                .env("IRONCLAW_RUN_PATH", run)
                .env("IRONCLAW_SNAPSHOT_PATH", srv.join("snapshots"))
                .env("IRONCLAW_TEMPLATE_PATH", srv.join("templates"))
                .args(*words)
                .assert()
                .code(121)
                .stderr(contains("IRONCLAW_RUN_PATH").and(contains("one")));
            assert_eq!(everything(&srv), before, "{words:?}");
        }
    }
}

#[test]
fn read_only_commands_remove_nothing_and_kill_nobody() {
    let state = with_a_broken_snapshot();
    import_a_kernel(state.path());
    // The leftovers of a killed process: an unfinished snapshot and template, and a living VMM.
    let marked = |path: PathBuf| {
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(MARK.0), MARK.1).unwrap();
        fs::write(path.join("file"), "half").unwrap();
        path
    };
    let id = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0e";
    marked(
        state
            .path()
            .join(format!("snapshots/.staging-{id}-0123456789abcdef")),
    );
    marked(state.path().join("templates/.staging-abcdef"));
    let run = state.path().join("run");
    marked(run.join(id.replace('-', "")));
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    let lasting = || {
        let mut all = everything(state.path());
        // Results of probes are new.
        all.retain(|(path, _)| !path.to_string_lossy().contains("-probe-"));
        all
    };
    program(state.path(), "qemu", QEMU_SAYS);
    let before = lasting();
    for words in READERS {
        let mut command = ironclaw(state.path());
        command.env("IRONCLAW_QEMU", state.path().join("qemu"));
        command.env("IRONCLAW_BACKEND", "qemu");
        command.args(words).output().unwrap();
        assert_eq!(lasting(), before, "{words:?}");
    }
}

#[test]
fn a_directory_of_somebodys_with_the_name_of_a_snapshot_or_template_is_left_alone() {
    let state = with_a_broken_snapshot();
    let store = state.path().join("snapshots");
    let broken = store.join("0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f");
    fs::remove_file(broken.join(MARK.0)).unwrap();
    let template = state.path().join("templates").join("ab".repeat(32));
    fs::create_dir_all(&template).unwrap();
    fs::set_permissions(
        template.parent().unwrap(),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    fs::write(template.join("a"), "x").unwrap();
    for noun in ["snapshot", "template"] {
        for verb in ["verify", "delete"] {
            ironclaw(state.path())
                .args([noun, verb, "--all"])
                .assert()
                .success();
        }
    }
    ironclaw(state.path())
        .args(["snapshot", "delete", "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f"])
        .assert()
        .code(125)
        .stdout(contains("by hand"));
    ironclaw(state.path())
        .args(["template", "delete", &"ab".repeat(32)])
        .assert()
        .code(125)
        .stdout(contains("by hand"));
    assert!(broken.join("memory").exists() && template.join("a").exists());
}

/// Publishes a base, and a checkpoint of a VM that was restored from it.
fn with_a_checkpoint(state: &Path) -> [String; 2] {
    let needs = Requirements {
        template: "0".repeat(64).parse().unwrap(),
        vmm: VmmIdentity {
            kind: VmmKind::new("QEMU"),
            version: "7.2.0".to_owned(),
            accelerator: "tcg".to_owned(),
            devices: None,
        },
        machine: Machine {
            memory_mib: 1,
            vcpus: 1,
        },
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
        let needs = needs.clone();
        let description = Description {
            generation: 0,
            template: needs.template,
            vmm: needs.vmm,
            machine: needs.machine,
            host: needs.host,
        };
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

#[test]
fn a_file_to_import_that_is_not_there_is_named_and_is_no_fault_of_the_store() {
    let state = state();
    let kernel = state.path().join("kernel");
    fs::write(&kernel, "\x7fELF..").unwrap();
    for (kernel, initramfs) in [(Path::new("/nope"), None), (&kernel, Some("/nope"))] {
        let mut command = ironclaw(state.path());
        command.args(["template", "import", "--kernel"]).arg(kernel);
        if let Some(initramfs) = initramfs {
            command.args(["--initramfs", initramfs]);
        }
        command.assert().code(125).stderr(contains("/nope"));
    }
    let store = state.path().join("store");
    fs::write(&store, "").unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_TEMPLATE_PATH", &store)
        .args(["template", "import", "--kernel"])
        .arg(&kernel)
        .assert()
        .code(119)
        .stderr(contains(store.display().to_string()).and(contains("IRONCLAW_TEMPLATE_PATH")));
}

#[test]
fn a_bad_kernel_is_not_imported_and_the_default_stays() {
    let state = state();
    let import = |content: &[u8]| {
        let kernel = state.path().join("kernel");
        fs::write(&kernel, content).unwrap();
        let mut command = ironclaw(state.path());
        command.args(["template", "import", "--kernel"]).arg(kernel);
        command.assert()
    };
    let mut bzimage = vec![0; 0x300];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    import(&bzimage).success();
    import(b"\x7fELF").success();
    let list = || {
        let listed = ironclaw(state.path()).args(["template", "list"]).assert();
        listed.success().get_output().stdout.clone()
    };
    let before = list();
    for content in [&b""[..], b"root:x:0:0:root", &bzimage[1..]] {
        import(content).code(125).stderr(contains("ELF"));
    }
    assert_eq!(list(), before);
}

#[test]
fn a_template_is_verified_and_deleted() {
    let state = state();
    let kernel = state.path().join("kernel");
    fs::write(&kernel, "\x7fELF..").unwrap();
    let json = |words: &[&str], code: i32| -> serde_json::Value {
        let done = ironclaw(state.path())
            .arg("--json")
            .arg("template")
            .args(words)
            .assert()
            .code(code);
        serde_json::from_slice(&done.get_output().stdout).unwrap()
    };
    json(&["import", "--kernel", kernel.to_str().unwrap()], 0);
    let listed = json(&["list"], 0)[0].clone();
    assert_eq!(listed["created"], listed["manifest"]["created"]);
    let hash = listed["hash"].clone();
    let word = hash.as_str().unwrap();
    let intact = serde_json::json!([
        {"hash": hash, "ok": true, "error": null, "hashed_bytes": 6}
    ]);
    assert_eq!(json(&["verify", "--all"], 0), intact);

    let there = state.path().join("templates").join(word).join("vmlinux");
    fs::remove_file(&there).unwrap();
    fs::write(&there, "\x7fELF!!").unwrap();
    let changed = json(&["verify", word], 1);
    assert_eq!(changed[0]["ok"], false);
    let error = changed[0]["error"].as_str().unwrap();
    assert!(error.contains("damaged"), "{error}");

    assert_eq!(json(&["delete", word], 0)[0]["ok"], true);
    assert_eq!(json(&["list"], 0), serde_json::json!([]));
    ironclaw(state.path())
        .args(["template", "delete", word])
        .assert()
        .code(125)
        .stdout(contains("there is no template"))
        .stderr(contains("1 of 1 templates"));
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

#[test]
fn a_missing_qemu_ends_a_run_and_is_found_by_doctor() {
    let state = state();
    let qemu = state.path().join("no-qemu-here");
    // A Firecracker would run the guest instead.
    ironclaw(state.path())
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", &qemu)
        .args(["run", "--", "true"])
        .assert()
        .code(121)
        .stderr(contains("qemu-system-x86").and(contains(qemu.display().to_string())));
    let failure = ironclaw(state.path())
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", &qemu)
        .args(["run", "--json", "--", "true"])
        .assert()
        .code(121);
    let failure: serde_json::Value = serde_json::from_slice(&failure.get_output().stdout).unwrap();
    assert_eq!(failure["exit_code"], 121);
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains(&qemu.display().to_string()), "{error}");

    let report = ironclaw(state.path())
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", &qemu)
        .args(["doctor", "--json"])
        .assert();
    let report = report.code(1);
    let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    assert_eq!(report["works"], false);
    let checks = report["checks"].as_array().unwrap();
    let qemu_check = checks.iter().find(|check| check["name"] == "QEMU").unwrap();
    assert_eq!(qemu_check["status"], "fail");
}

#[test]
fn a_file_on_path_that_can_not_be_run_does_not_hide_the_program_behind_it() {
    let state = state();
    let path = ["first", "second"].map(|name| {
        let directory = state.path().join(name);
        fs::create_dir(&directory).unwrap();
        let program = directory.join("qemu-system-x86_64");
        fs::write(&program, "#!/bin/sh\necho QEMU emulator version 7.2.0\n").unwrap();
        directory
    });
    let program = path[1].join("qemu-system-x86_64");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let report = ironclaw(state.path())
        .env("PATH", std::env::join_paths(&path).unwrap())
        .args(["doctor", "--json"])
        .assert();
    let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let qemu = checks.iter().find(|check| check["name"] == "QEMU").unwrap();
    let found = qemu["found"].as_str().unwrap();
    assert_eq!(found, format!("{} 7.2.0", program.display()));
}

#[test]
fn a_firecracker_that_is_not_there_is_named_with_what_to_do() {
    if !has_kvm() {
        return;
    }
    let state = state();
    ironclaw(state.path())
        .env("IRONCLAW_FIRECRACKER", "/no/such/firecracker")
        .args(["run", "--backend", "firecracker", "--", "true"])
        .assert()
        .code(121)
        .stderr(contains("/no/such/firecracker").and(contains("IRONCLAW_FIRECRACKER")));
}

/// Returns whether there is KVM; without it, errors are about that.
fn has_kvm() -> bool {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &kvm {
        skipped(format!("/dev/kvm: {error}"));
    }
    kvm.is_ok()
}

/// Imports a kernel that no VMM boots, as the default template.
fn import_a_kernel(state: &Path) {
    let kernel = state.join("kernel");
    fs::write(&kernel, "\x7fELF").unwrap();
    let mut command = ironclaw(state);
    command.args(["template", "import", "--kernel"]).arg(kernel);
    command.assert().success();
}

/// Creates a program called `name` that runs `script`.
fn program(state: &Path, name: &str, script: &str) -> PathBuf {
    let path = state.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn a_required_firecracker_s_own_error_is_shown() {
    if !has_kvm() {
        return;
    }
    let state = state();
    import_a_kernel(state.path());
    let program = program(
        state.path(),
        "firecracker",
        "[ \"$1\" = --version ] && exec echo Firecracker v1.17.0\necho none today; exit 3",
    );
    let drive = state.path().join("drive");
    fs::write(&drive, "drive").unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_FIRECRACKER", &program)
        .env("IRONCLAW_JAIL", "off")
        .env("IRONCLAW_ROOT_DRIVE", &drive)
        .args(["run", "--", "true"])
        .assert()
        .code(122)
        .stderr(contains("exit status: 3").and(contains("needs Firecracker").not()));
}

#[test]
fn a_bench_fails_before_it_measures_where_its_files_are_unusable() {
    let state = state();
    let (missing, wrong) = (
        state.path().join("none.toml"),
        state.path().join("ratios.toml"),
    );
    fs::write(&wrong, "[qemu-tcg]\nmemory_mb = 128\n").unwrap();
    let below_a_file = wrong.join("plots");
    for (option, path, said) in [
        ("--compare", &missing, "No such file"),
        ("--compare", &wrong, "memory_mb"),
        ("--plot", &below_a_file, "Not a directory"),
    ] {
        ironclaw(state.path())
            .arg("bench")
            .arg(option)
            .arg(path)
            .assert()
            .code(125)
            .stdout("")
            .stderr(contains(path.display().to_string()).and(contains(said)));
    }
    assert!(!state.path().join("snapshots").exists());
}

#[test]
fn output_that_nobody_reads_ends_the_program_quietly() {
    let state = state();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("ironclaw"))
        .env("IRONCLAW_SNAPSHOT_PATH", state.path().join("snapshots"))
        .args(["completions", "bash"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_named_pipe_is_refused_wherever_a_file_is_named() {
    let state = state();
    let (pipe, kernel) = (state.path().join("pipe"), state.path().join("kernel"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    fs::write(&kernel, "\x7fELF").unwrap();
    let refused = |kernel: &Path, more: &[&std::ffi::OsStr]| {
        ironclaw(state.path())
            .args(["template", "import", "--kernel"])
            .arg(kernel)
            .args(more)
            .timeout(std::time::Duration::from_secs(60))
            .assert()
            .code(125)
            .stderr(contains(pipe.display().to_string()).and(contains("named pipe")));
    };
    refused(&pipe, &[]);
    refused(&kernel, &["--initramfs".as_ref(), pipe.as_ref()]);
    ironclaw(state.path())
        .env("IRONCLAW_GUEST_AGENT", &pipe)
        .args(["template", "build"])
        .timeout(std::time::Duration::from_secs(60))
        .assert()
        .stderr(contains(pipe.display().to_string()))
        .failure();
}

#[test]
fn a_limit_of_processes_is_named_in_one_line() {
    let state = state();
    let program = assert_cmd::cargo::cargo_bin!("ironclaw");
    // Root has no such limit; an idle user reaches it at once.
    let idle = [
        "setpriv",
        "--reuid=64321",
        "--regid=64321",
        "--clear-groups",
    ];
    let as_idle: &[&str] = match rustix::process::geteuid().is_root() {
        true => &idle,
        false => &["env"],
    };
    for limit in [1, 2, 3, 5, 8] {
        let output = std::process::Command::new(as_idle[0])
            .args(&as_idle[1..])
            .args(["prlimit", &format!("--nproc={limit}")])
            .arg(program)
            .args(["run", "--", "true"])
            .env("IRONCLAW_SNAPSHOT_PATH", state.path().join("snapshots"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{limit}: {said}");
        assert_eq!(said.lines().count(), 1, "{limit}: {said}");
        let named = format!("at most {limit} (ulimit -u)");
        assert!(said.contains(&named), "{limit}: {said}");
    }
}

#[test]
fn help_that_can_not_be_printed_is_a_failure() {
    for words in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("ironclaw"))
            .args(words)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("No space left"), "{said}");
    }
}

/// Lets everybody read `path` and everything below it.
fn show_to_all(path: &Path) {
    let is_directory = path.is_dir();
    let mode = if is_directory { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if is_directory {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_symlink() {
                show_to_all(&path);
            }
        }
    }
}

#[test]
fn templates_of_root_serve_another_user_who_may_read_them_and_those_of_a_third_do_not() {
    use std::os::unix::fs::{chown, lchown};
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;
    const SOMEBODY: u32 = 12345;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let state = state();
    import_a_kernel(state.path());
    let templates = state.path().join("templates");
    show_to_all(state.path());
    let program = state.path().join("ironclaw");
    fs::copy(assert_cmd::cargo::cargo_bin!("ironclaw"), &program).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.env_clear().args(words).uid(NOBODY).gid(NOBODY);
        command.env("HOME", "/nonexistent");
        command.env("IRONCLAW_TEMPLATE_PATH", &templates);
        command.output().unwrap()
    };
    for words in [&["template", "list"][..], &["template", "verify", "--all"]] {
        let output = as_nobody(words);
        assert!(output.status.success(), "{output:?}");
        assert!(!output.stdout.is_empty());
    }
    let output = as_nobody(&["template", "delete", "--all"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let output = as_nobody(&["template", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed[0]["default"], true);

    for (path, of) in [
        (&templates, "templates"),
        (&state.path().to_owned(), "above"),
    ] {
        chown(path, Some(SOMEBODY), None).unwrap();
        let output = as_nobody(&["template", "list"]);
        assert_eq!(output.status.code(), Some(119), "{of}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("12345") && said.contains("IRONCLAW_TEMPLATE_PATH"),
            "{said}"
        );
        chown(path, Some(0), None).unwrap();
    }
    let link = state.path().join("link");
    std::os::unix::fs::symlink(&templates, &link).unwrap();
    lchown(&link, Some(SOMEBODY), None).unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_TEMPLATE_PATH", &link)
        .args(["template", "list"])
        .assert()
        .code(119)
        .stderr(contains("a link of another user"));
}
