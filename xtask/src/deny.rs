//! Checks dependencies by `cargo deny` and deny.toml.

use std::env::consts::EXE_SUFFIX;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::TESTGUEST;
use crate::fuzz;
use crate::step::{self, Failed};
use crate::workspace::Workspace;

/// The version that deny.toml is written for.
const VERSION: &str = "0.20.2";
/// Timeout of its build, which takes 90 seconds of processor time; the rest is for slow registries.
const BUILD_SECONDS: &str = "900";
/// Timeout of the advisory database, a git repository of a few megabytes on another host than
/// crates.
const FETCH_SECONDS: &str = "60";

/// Checks licences, sources and versions of all dependencies; and advisories, if their database is
/// reachable.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let program = program(workspace)?;
    let check = |manifest: &str| {
        let mut command = Command::new(&program);
        command
            .current_dir(workspace.root())
            .args(["--config", "deny.toml", "--manifest-path", manifest])
            .args(["--log-level", "error"]);
        command
    };
    for manifest in ["Cargo.toml", TESTGUEST, fuzz::MANIFEST] {
        step::run(check(manifest).args(["check", "licenses", "bans", "sources"]))?;
    }
    let mut fetch = limited(FETCH_SECONDS, &program);
    fetch
        .current_dir(workspace.root())
        .args(["--config", "deny.toml", "fetch", "db"]);
    if let Err(error) = step::quietly("fetching the database of advisories", &mut fetch) {
        eprintln!("advisories: NOT CHECKED: {}", reason(&error));
        return Ok(());
    }
    // Offline: fetched a moment ago.
    step::run(check("Cargo.toml").args(["--offline", "check", "advisories"]))
}

/// Returns in one line why advisories could not be checked.
fn reason(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Failed>() {
        None => format!("{error:#}"),
        // The status by which `timeout` reports a timeout.
        Some(failed) if failed.status.code() == Some(124) => {
            format!("their database did not come within {FETCH_SECONDS} s")
        }
        Some(failed) => {
            let last = failed.said.lines().rfind(|line| !line.trim().is_empty());
            format!(
                "their database can't be had: {}",
                last.unwrap_or("no reason told").trim()
            )
        }
    }
}

/// Returns the path of `cargo-deny`; builds it below the target directory if it is not installed.
fn program(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target().join("tools");
    let program = root.join("bin").join(format!("cargo-deny{EXE_SUFFIX}"));
    if is_right(&program) {
        return Ok(program);
    }
    if let Some(installed) = which::which("cargo-deny")
        .ok()
        .filter(|path| is_right(path))
    {
        return Ok(installed);
    }
    let cargo = workspace.cargo(&[]);
    let mut install = limited(BUILD_SECONDS, cargo.get_program());
    install
        .args([
            "install",
            "--quiet",
            "--locked",
            "cargo-deny",
            "--version",
            VERSION,
        ])
        // It runs for a second, so an unoptimized build is faster in total.
        .args(["--debug", "--config", "profile.dev.debug=0", "--root"])
        .arg(&root)
        .current_dir(workspace.root())
        .env("CARGO_TARGET_DIR", root.join("build"));
    step::run(&mut install).with_context(|| {
        format!("cargo-deny {VERSION} is needed, and was not installed within {BUILD_SECONDS} s")
    })?;
    Ok(program)
}

fn is_right(program: &std::path::Path) -> bool {
    let said = Command::new(program).arg("--version").output();
    said.is_ok_and(|said| {
        String::from_utf8_lossy(&said.stdout).trim() == format!("cargo-deny {VERSION}")
    })
}

/// Creates a command with a timeout in seconds.
fn limited(seconds: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(seconds).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(script: &str) -> anyhow::Error {
        let mut command = limited("1", "/bin/sh");
        step::quietly("trying", command.args(["-c", script])).unwrap_err()
    }

    #[test]
    fn the_reason_why_advisories_were_not_checked_is_the_last_that_was_said() {
        let error = failed("echo first; echo 'Could not resolve host'; echo; exit 1");
        let reason = reason(&error);
        assert!(reason.ends_with("Could not resolve host"), "{reason}");
    }

    #[test]
    fn a_database_that_does_not_come_is_not_waited_for() {
        let reason = reason(&failed("exec sleep 60"));
        assert!(reason.contains("did not come within"), "{reason}");
    }

    #[test]
    fn another_program_is_not_taken_for_cargo_deny() {
        assert!(!is_right(std::path::Path::new("/bin/true")));
        assert!(!is_right(std::path::Path::new("/nonexistent")));
    }
}
