//! Runs one command of a task.

use std::fmt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Prints the command line on standard error and runs it.
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

/// Prints `what` and runs the command, whose output is shown only if it fails.
///
/// # Errors
/// [`Failed`] if it does not succeed; another error if it can't be started.
pub(crate) fn quietly(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("{what}");
    output(command).map(drop)
}

/// Runs the command, and returns its standard output.
///
/// # Errors
/// As for [`quietly`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start `{line}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Failed {
        line,
        status: output.status,
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    }
    .into())
}

/// A command that failed, with its output.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) line: String,
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}\n{}", self.line, self.status, self.said)
    }
}

impl std::error::Error for Failed {}

/// Formats the command as typed, without its environment.
pub(crate) fn line(command: &Command) -> String {
    let program = command.get_program();
    // Cargo's full path is noise.
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
    fn a_failed_quiet_command_shows_its_output() {
        let sh = |script| quietly("trying", Command::new("/bin/sh").args(["-c", script]));
        sh("echo nothing").unwrap();
        let error = sh("echo out; echo err >&2; exit 7")
            .unwrap_err()
            .to_string();
        for part in ["out", "err", "sh -c", "7"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nonexistent/program"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("can't start `program`"), "{error}");
    }
}
