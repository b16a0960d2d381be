//! The command line.

mod assignment;
mod bench;
mod run;
mod soak;
mod usage_error;
mod value;

use std::ffi::OsString;
use std::io::IsTerminal as _;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use ironclaw_inventory::{PoolTask, SnapshotTask, TemplateTask};

use crate::help;
use bench::Bench;
pub(crate) use run::Run;
use soak::Soak;
use value::setting;

/// Runs commands in fresh microVMs, each restored from a snapshot in milliseconds.
#[derive(Debug, Parser)]
#[command(name = "ironclaw", version, after_help = help::MAIN_EXAMPLES, after_long_help = help::main())]
pub(crate) struct Cli {
    /// Print JSON on standard output instead of text; of a failure, {"error", "kind", "exit_code"}.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Set a setting, whatever its variable or a file sets; may be given more than once. `ironclaw config
    /// show` lists the keys.
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = OsStringValueParser::new().try_map(setting))]
    pub(crate) set: Vec<(String, OsString)>,
    #[command(subcommand)]
    pub(crate) task: Task,
}

impl Cli {
    /// The command line of this process. Ends the program where it is wrong, or asks for help.
    pub(crate) fn of_process() -> Self {
        let words: Vec<_> = std::env::args_os().collect();
        Self::from_words(&words)
            .unwrap_or_else(|error| std::process::exit(usage_error::tell(&error, &words)))
    }

    fn from_words(words: &[OsString]) -> Result<Self, clap::Error> {
        let mut cli = Self::try_parse_from(words)?;
        if let Task::Pool(task) = &cli.task {
            cli.json |= task.prints_json();
        }
        if cli.json && matches!(cli.task, Task::Completions { .. }) {
            let text = "--json can't be used with `completions`, which prints a script";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        if let Task::Run(Run {
            tty: true,
            stdin: true,
            ..
        }) = cli.task
            && !std::io::stdin().is_terminal()
        {
            // What a pipe holds would be typed before the command reads from its terminal, and lost.
            let text = "-it takes what is typed, and standard input is no terminal: leave -t out to forward \
                        what it holds, or -i to type nothing";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        Ok(cli)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a command in a fresh microVM.
    Run(Run),
    /// What VMs boot from.
    #[command(subcommand)]
    Template(TemplateTask),
    /// What VMs are restored from.
    #[command(subcommand)]
    Snapshot(SnapshotTask),
    /// The set of snapshots that VMs are taken from in turn.
    #[command(subcommand)]
    Pool(PoolTask),
    /// The settings.
    #[command(subcommand)]
    Config(ConfigTask),
    /// Check what is installed, and say which hypervisor would be used and why.
    #[command(after_help = help::DOCTOR_EXAMPLES)]
    Doctor,
    /// Measure spawns on this machine: time by tier and stage, memory, disk, throughput.
    #[command(after_help = help::BENCH_EXAMPLES)]
    Bench(Bench),
    /// Use a pool for long, let things go wrong, and look for what is left. Exits with 1 if
    /// anything leaked, or failed that should not.
    #[command(after_help = help::SOAK_EXAMPLES)]
    Soak(Soak),
    /// Hand out microVMs over HTTP, to E2B's SDKs among others.
    Serve(ironclaw_daemon::Serve),
    /// The keys of those who may ask the daemon.
    Key(ironclaw_daemon::KeyArgs),
    #[command(flatten)]
    Ask(ironclaw_client::commands::Task),
    /// Print a completion script for a shell.
    #[command(after_help = help::COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigTask {
    /// Show each setting, its value, and what set it.
    #[command(after_help = help::CONFIG_EXAMPLES)]
    Show,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_guests_command_is_taken_as_it_is() {
        for words in [&["--", "ls", "-l", "--json"][..], &["ls", "-l", "--json"]] {
            let line = ["ironclaw", "run"].iter().chain(words);
            let cli = Cli::try_parse_from(line).unwrap();
            let Task::Run(run) = cli.task else {
                panic!("not a run")
            };
            assert_eq!(run.command, ["ls", "-l", "--json"]);
            assert!(!cli.json);
        }
    }

    #[test]
    fn the_guests_command_its_variables_and_its_directory_are_bytes() {
        let latin = |text: &[u8]| OsStr::from_bytes(text).to_owned();
        let line = [
            latin(b"ironclaw"),
            latin(b"run"),
            latin(b"--env=A=\xe9=\xff"),
            latin(b"--cwd=/caf\xe9"),
            latin(b"printf"),
            latin(b"caf\xe9"),
        ];
        let Task::Run(run) = Cli::try_parse_from(line).unwrap().task else {
            panic!("not a run")
        };
        assert_eq!(run.command, [latin(b"printf"), latin(b"caf\xe9")]);
        assert_eq!(run.env, [(latin(b"A"), latin(b"\xe9=\xff"))]);
        assert_eq!(run.cwd, Some(latin(b"/caf\xe9").into()));
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for option in [
            "--timeout=0s",
            "--timeout=31days",
            "--timeout=soon",
            "--env=novalue",
            "--env==x",
            "--cwd=relative",
            "--backend=xen",
        ] {
            let result = Cli::try_parse_from(["ironclaw", "run", option, "--", "true"]);
            assert!(result.is_err(), "{option} is taken");
        }
    }

    #[test]
    fn figures_have_one_format() {
        let parse = |words: &[&str]| {
            let line = ["ironclaw", "pool", "stats"].iter().chain(words);
            Cli::try_parse_from(line).is_ok()
        };
        for format in ["table", "json", "prometheus"] {
            assert!(parse(&["--format", format]));
        }
        assert!(parse(&["--json"]) && parse(&[]));
        assert!(!parse(&["--json", "--format", "table"]) && !parse(&["--format", "xml"]));
    }

    #[test]
    fn ids_and_all_exclude_each_other_and_one_is_needed() {
        let id = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f";
        let parse = |words: &[&str]| {
            Cli::try_parse_from(["ironclaw", "snapshot", "verify"].iter().chain(words)).is_ok()
        };
        assert!(parse(&["--all"]) && parse(&[id]) && parse(&[id, id]));
        assert!(!parse(&[]) && !parse(&["--all", id]) && !parse(&["nonsense"]));
    }

    #[test]
    fn every_command_has_examples() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let after = command.get_after_help().map(ToString::to_string);
            if command.has_subcommands() {
                commands.extend(command.get_subcommands().cloned());
            } else {
                let has = after.is_some_and(|text| text.contains("Examples:\n  "));
                assert!(has, "{}", command.get_name());
            }
        }
    }
}
