//! Builds the guest agent and the `ironclaw` binary.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Error, Result};

use crate::workspace::Workspace;
use crate::{packages, step};

const AGENT: &str = "ironclaw-guest-agent";
/// The manifest of the bare-metal guest, a workspace of its own.
pub(crate) const TESTGUEST: &str = "testguest/Cargo.toml";
/// The target of every build that names one.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Builds everything that `ironclaw` needs; returns the path of `ironclaw`.
pub(crate) fn set_up(workspace: &Workspace) -> Result<PathBuf> {
    packages::ensure_installed(workspace)?;
    let agent = agent(workspace)?;
    step::run(&mut workspace.cargo(&["build", "--quiet", "--release", "-p", "ironclaw-cli"]))?;
    let release = workspace.target().join("release");
    // Not directly beside it: the next build of the workspace puts a dynamically linked agent
    // there.
    place(&agent, &release.join("lib/ironclaw").join(AGENT))?;
    Ok(release.join("ironclaw"))
}

/// Sets up, then executes `ironclaw run`.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let ironclaw = set_up(workspace)?;
    let error = Command::new(&ironclaw).arg("run").args(arguments).exec();
    Err(Error::new(error).context(format!("can't run {}", ironclaw.display())))
}

/// Builds the static guest agent; returns its path.
pub(crate) fn agent(workspace: &Workspace) -> Result<PathBuf> {
    // Other flags than the workspace's: in one directory, the two builds would invalidate each
    // other.
    let target = workspace.target().join("guest");
    let build = [
        "build",
        "--quiet",
        "--profile",
        "guest",
        "--target",
        TRIPLE,
        "-p",
        AGENT,
    ];
    step::run(
        workspace
            .cargo(&build)
            .env("CARGO_TARGET_DIR", &target)
            // Takes precedence over RUSTFLAGS.
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    Ok(target.join(TRIPLE).join("guest").join(AGENT))
}

/// Builds the bare-metal test guest; returns its path, or `None` if the host's target is not
/// supported.
pub(crate) fn testguest(workspace: &Workspace) -> Result<Option<PathBuf>> {
    if !cfg!(all(
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "gnu"
    )) {
        return Ok(None);
    }
    // Apart from the workspace's: it has profiles of its own.
    let target = workspace.target().join("testguest");
    let build = [
        "build",
        "--quiet",
        "--release",
        "--target",
        TRIPLE,
        "--manifest-path",
        TESTGUEST,
    ];
    step::run(
        workspace
            .cargo(&build)
            .env("CARGO_TARGET_DIR", &target)
            // The guest's build script passes all linker options.
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS"),
    )?;
    let image = target.join(TRIPLE).join("release/ironclaw-testguest");
    Ok(Some(image))
}

/// Copies a program, and renames it into place only when complete.
fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("can't make the directory {}", directory.display()))?;
    }
    let part = to.with_extension("part");
    fs::copy(from, &part)
        .with_context(|| format!("can't copy {} to {}", from.display(), part.display()))?;
    fs::rename(&part, to).with_context(|| format!("can't rename {}", part.display()))
}
