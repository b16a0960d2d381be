//! The SDK for JavaScript.

use std::path::{Path, PathBuf};
use std::process::Command;

use ironclaw_test_harness::skipped;

use super::vm::runs;
use super::{Daemon, NEWEST};

/// The oldest Node.js that the SDKs run in.
const NODE: (u32, u32) = (20, 19);

/// Returns a directory with an SDK; ignores the test if there is none to be had.
pub(crate) fn with_sdk(sdk: &str) -> Option<PathBuf> {
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
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("javascript")
        .join(sdk);
    if home.join("node_modules/e2b").is_dir() {
        return Some(home);
    }
    std::fs::create_dir_all(&home).unwrap();
    let mut install = Command::new("npm");
    install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
    let installed = install.arg(&home).arg(sdk).output();
    let reason = match &installed {
        Ok(output) if output.status.success() => return Some(home),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let reason = reason.lines().last().unwrap_or_default();
    skipped(format!("{sdk} can't be installed: {reason}"));
    None
}

#[test]
fn the_newest_sdk_for_javascript_works_unmodified() {
    let Some(home) = runs().then(|| with_sdk(NEWEST)).flatten() else {
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
