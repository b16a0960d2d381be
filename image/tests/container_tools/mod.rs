//! Tools of containers, and an image that they make.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Returns why a test can't run: one of `tools` is missing.
pub(crate) fn missing(tools: &[&str]) -> Option<String> {
    let missing = tools.iter().find(|tool| which::which(tool).is_err());
    missing.map(|tool| format!("{tool} is not installed"))
}

/// Runs a program in `directory`, which has to succeed.
pub(crate) fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(directory).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Makes an image of three layers with umoci, the last one with whiteouts.
pub(crate) fn make(directory: &Path) {
    let umoci = |arguments: &[&str]| run(directory, "umoci", arguments);
    let root = directory.join("root");
    fs::create_dir_all(root.join("etc/old")).unwrap();
    fs::write(root.join("etc/passwd"), "app:x:1000:1000::/srv:/bin/sh\n").unwrap();
    fs::write(root.join("etc/old/file"), "old").unwrap();
    fs::write(root.join("gone"), "gone").unwrap();
    fs::write(directory.join("new"), "new".repeat(5000)).unwrap();
    umoci(&["init", "--layout", "layout"]);
    umoci(&["new", "--image", "layout:app"]);
    umoci(&["insert", "--rootless", "--image", "layout:app", "root", "/"]);
    umoci(&[
        "insert",
        "--rootless",
        "--image",
        "layout:app",
        "--opaque",
        "root/etc/passwd",
        "/etc/old",
    ]);
    umoci(&[
        "insert",
        "--rootless",
        "--image",
        "layout:app",
        "--whiteout",
        "/gone",
    ]);
    umoci(&[
        "insert",
        "--rootless",
        "--image",
        "layout:app",
        "new",
        "/srv/new",
    ]);
    umoci(&[
        "config",
        "--image",
        "layout:app",
        "--config.env",
        "A=b=c",
        "--config.user",
        "app",
        "--config.cmd",
        "sh",
    ]);
}
