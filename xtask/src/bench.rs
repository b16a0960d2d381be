//! Measuring, beside the ratios that are committed.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{build, step};

/// Sets up and runs `ironclaw bench`, compared with the committed ratios unless the arguments name
/// others.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let ironclaw = build::set_up(workspace)?;
    step::run(compared(&ironclaw, workspace).args(arguments))
}

/// The quick part, with what the tests have built: a release build would take longer than all of
/// it. The VMM, and with it most of every figure, is the same; the ratios leave room for the rest.
///
/// It is QEMU's translator on every machine, so that there are ratios to compare with.
pub(crate) fn quick(workspace: &Workspace) -> Result<()> {
    let agent = build::agent(workspace)?;
    let ironclaw = workspace.target().join("debug/ironclaw");
    // Where the tests of the command line have theirs, made from the same agent.
    let state = workspace.target().join("tmp/vm");
    step::run(
        compared(&ironclaw, workspace)
            .arg("--quick")
            .env("IRONCLAW_GUEST_AGENT", agent)
            .env("IRONCLAW_TEMPLATE_PATH", state.join("templates"))
            .env("IRONCLAW_SNAPSHOT_PATH", state.join("bench"))
            .env("IRONCLAW_BACKEND", "qemu")
            .env("IRONCLAW_QEMU_ACCEL", "tcg")
            .env_remove("IRONCLAW_MEMORY_MIB")
            .env_remove("IRONCLAW_VCPUS"),
    )
}

fn compared(ironclaw: &Path, workspace: &Workspace) -> Command {
    let ratios = workspace.root().join("docs/bench-ratios.toml");
    let mut command = Command::new(ironclaw);
    command.args(["bench", "--compare"]).arg(ratios);
    command
}
