//! What is printed where a command line is wrong, or asks for help.

use std::ffi::OsString;
use std::io::{IsTerminal, Write as _};

use clap::error::ErrorKind;
use ironclaw_console::streams::{Stderr, Stdout};
use ironclaw_console::written;

use crate::exit::Code;
use crate::failure;

/// Prints help, or what is wrong with these words of a command line; returns the exit code.
pub(super) fn tell(error: &clap::Error, words: &[OsString]) -> i32 {
    if error.use_stderr() && asks_for_json(words) {
        failure::print(&said(error), Code::Usage as u8);
    }
    show(error)
}

/// Prints it for people.
fn show(error: &clap::Error) -> i32 {
    let stream: &dyn IsTerminal = if error.use_stderr() {
        &std::io::stderr()
    } else {
        &std::io::stdout()
    };
    // As clap would by itself; see no-color.org.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    let text = if stream.is_terminal() && !is_plain {
        error.render().ansi().to_string()
    } else {
        error.render().to_string()
    };
    if error.use_stderr() {
        // The exit code says so, too.
        let _ = Stderr.write_all(text.as_bytes());
        return error.exit_code();
    }
    match Stdout.write_all(text.as_bytes()) {
        Ok(()) => error.exit_code(),
        Err(error) => failure::tell(&written(error), false).into(),
    }
}

/// Whether a command line that could not be understood asks for JSON, before the `--` that a guest's
/// command follows.
fn asks_for_json(words: &[OsString]) -> bool {
    let end = words.iter().position(|word| word == "--");
    let ours = words.get(..end.unwrap_or(words.len())).unwrap_or_default();
    ours.iter()
        .any(|word| word == "--json" || word == "--format=json")
        || ours.windows(2).any(|pair| pair == ["--format", "json"])
}

/// What is wrong with a command line, in one line and without the usage that people get.
fn said(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a subcommand is missing".to_owned();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = first.lines().map(str::trim).collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}
