//! Failures: exit codes, and texts that say what to do.

use std::fs;
use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;

use crate::state::{ironclaw, state};

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
