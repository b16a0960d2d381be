//! Measuring, beside the ratios that are committed.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
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
    let mut command = compared(&ironclaw, workspace);
    forget_settings(&mut command, env::vars_os().map(|(name, _)| name));
    step::run(
        command
            .arg("--quick")
            .env("IRONCLAW_GUEST_AGENT", agent)
            .env("IRONCLAW_TEMPLATE_PATH", state.join("templates"))
            .env("IRONCLAW_SNAPSHOT_PATH", state.join("bench"))
            .env("IRONCLAW_RUN_PATH", state.join("run"))
            .env("IRONCLAW_BACKEND", "qemu")
            .env("IRONCLAW_QEMU_ACCEL", "tcg"),
    )
}

/// The caller's settings of other guests or pools would make other figures.
fn forget_settings(command: &mut Command, variables: impl Iterator<Item = OsString>) {
    for name in variables {
        let is_setting = name.as_bytes().starts_with(b"IRONCLAW_");
        if is_setting && name != "IRONCLAW_QEMU" {
            command.env_remove(name);
        }
    }
}

fn compared(ironclaw: &Path, workspace: &Workspace) -> Command {
    let ratios = workspace.root().join("docs/bench-ratios.toml");
    let mut command = Command::new(ironclaw);
    command.args(["bench", "--compare"]).arg(ratios);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_caller_are_forgotten_but_for_where_qemu_is() {
        let mut command = Command::new("ironclaw");
        let set = ["IRONCLAW_MEMORY_MIB", "IRONCLAW_QEMU", "PATH"];
        forget_settings(&mut command, set.into_iter().map(OsString::from));
        let forgotten: Vec<_> = command.get_envs().map(|(name, _)| name).collect();
        assert_eq!(forgotten, ["IRONCLAW_MEMORY_MIB"]);
    }
}
