//! State directories of a test, and `ironclaw` with them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ironclaw_orchestrator::vm::config::SETTINGS;
use tempfile::TempDir;

/// Returns the path of a file that sets nothing.
pub(crate) fn no_settings() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-settings.toml");
    // Complete at once, for tests that run at the same time.
    fs::write(&path, "").unwrap();
    path
}

/// Returns `ironclaw` with no settings but directories of its own below `state`.
pub(crate) fn ironclaw(state: &Path) -> Command {
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

pub(crate) fn state() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The mark's file, and its content.
pub(crate) const MARK: (&str, &str) = (
    ".ironclaw",
    "IronClaw made this directory, and removes it with all that is in it.\n",
);

/// Creates a snapshot directory with nothing but a mark: it has a size and no age, and fits nobody.
pub(crate) fn with_a_broken_snapshot() -> TempDir {
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
pub(crate) const QEMU_SAYS: &str = "echo QEMU emulator version 7.2.0";

/// Imports a kernel that no VMM boots, as the default template.
pub(crate) fn import_a_kernel(state: &Path) {
    let kernel = state.join("kernel");
    fs::write(&kernel, "\x7fELF").unwrap();
    let mut command = ironclaw(state);
    command.args(["template", "import", "--kernel"]).arg(kernel);
    command.assert().success();
}

/// Creates a program called `name` that runs `script`.
pub(crate) fn program(state: &Path, name: &str, script: &str) -> PathBuf {
    let path = state.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}
