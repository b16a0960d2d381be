//! The SDK for JavaScript.

use std::path::{Path, PathBuf};
use std::process::Command;

use ironclaw_test_harness::skipped;

use super::Daemon;
use super::vm::runs;

/// The SDK that has to work, and the oldest Node.js that it runs in.
const NEWEST: &str = "e2b";
const NODE: (u32, u32) = (20, 19);

/// Returns a directory with the SDK; ignores the test if there is none to be had.
fn with_sdk() -> Option<PathBuf> {
    let version = Command::new("node").arg("--version").output();
    let version = version.ok().map(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.trim().trim_start_matches('v').split('.');
        let mut next = || numbers.next()?.parse().ok();
        next().zip(next())
    });
    if version.flatten().is_none_or(|version| version < NODE) {
        let (major, minor) = NODE;
        skipped(format!("there is no Node.js from {major}.{minor} on"));
        return None;
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("javascript");
    if home.join("node_modules").join(NEWEST).is_dir() {
        return Some(home);
    }
    std::fs::create_dir_all(&home).unwrap();
    let mut install = Command::new("npm");
    install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
    let installed = install.arg(&home).arg(NEWEST).output();
    let reason = match &installed {
        Ok(output) if output.status.success() => return Some(home),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let reason = reason.lines().last().unwrap_or_default();
    skipped(format!("{NEWEST} can't be installed: {reason}"));
    None
}

#[test]
fn the_newest_sdk_for_javascript_works_unmodified() {
    let Some(home) = runs().then(with_sdk).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2b/calls.mjs");
    let mut node = Command::new("node");
    node.arg(script).current_dir(home);
    let said = daemon.run(&mut node, &key);
    assert!(said.ends_with("all calls are served\n"), "{said}");
    daemon.end();
}
