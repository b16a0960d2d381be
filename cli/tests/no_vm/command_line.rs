//! The command line, help and completions.

use std::fs;

use predicates::prelude::*;
use predicates::str::contains;

use crate::state::{ironclaw, state};

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
