//! The command `ironclaw completions`.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;
use ironclaw_console::output;

use crate::args::Cli;

/// Prints the script for `shell`.
pub(crate) fn print(shell: Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ironclaw", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}
