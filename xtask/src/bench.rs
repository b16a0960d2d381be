//! Runs the benchmark, compared with the committed ratios.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{build, step};

/// Sets up and runs `ironclaw bench`; compares with the committed ratios unless the arguments name
/// others.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let ironclaw = build::set_up(workspace)?;
    step::run(compared(&ironclaw, workspace).args(arguments))
}

/// Runs the quick part with the build of the tests: a release build would take longer than the
/// whole benchmark. The VMM, which most of every figure is made of, is the same; the ratios have
/// tolerance for the rest.
///
/// Always uses QEMU's translation, so that the figures are comparable with the ratios.
pub(crate) fn quick(workspace: &Workspace) -> Result<()> {
    let agent = build::agent(workspace)?;
    let ironclaw = workspace.target().join("debug/ironclaw");
    // The state of the command line's tests, made from the same agent.
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

/// Removes the caller's settings: other guests or pools have other figures.
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
