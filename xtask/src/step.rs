//! One command of a task.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Says the command line on standard error and runs it.
///
/// # Errors
/// If it can't be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("can't start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

/// The command as one would type it, without its environment.
pub(crate) fn line(command: &Command) -> String {
    let program = command.get_program();
    // Cargo names itself by its full path, which says nothing to the reader.
    let program = std::path::Path::new(program).file_name().unwrap_or(program);
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_line_and_the_status() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 7"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sh -c exit 7") && error.contains('7'),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nonexistent/program"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("can't start `program`"), "{error}");
    }
}
