//! `cargo xtask`: the commands of an IronClaw developer, with nothing to install first.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod checks;
mod deny;
#[cfg(test)]
mod documents;
mod fuzz;
mod packages;
mod pull;
mod setting_names;
mod step;
mod structure;
mod suites;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages that are missing; build the guest agent and `ironclaw`.
    Setup,
    /// Set up, then `ironclaw run ARGS`: `cargo xtask run -- uname -a`.
    Run {
        /// Options of `ironclaw run`, then `--`, then the command for the guest. Without an
        /// option in front, all of it is the command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<OsString>,
    },
    /// Set up, then `ironclaw bench ARGS`, compared with docs/bench-ratios.toml:
    /// `cargo xtask bench --quick`.
    Bench {
        /// Options of `ironclaw bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up, then time an image's way from a registry to a template, beside `skopeo copy` and
    /// `umoci unpack` of the same.
    BenchPull(pull::Options),
    /// All tests, those with real VMs included.
    Test,
    /// Which module uses which, formatting, clippy and documentation; every warning is an error.
    Lint,
    /// Licences, sources and advisories of all dependencies, by `cargo deny` and deny.toml; builds
    /// `cargo-deny` if it is not installed.
    Deny,
    /// Fuzz what reads the bytes of guests, VMMs, and files of others: `cargo xtask fuzz --for 5m qmp`.
    Fuzz(fuzz::Options),
    /// What CI runs: test, then the quick part of bench with what that has built, then deny and lint.
    Ci,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup => build::set_up(&workspace).map(drop),
        Task::Run { arguments } => build::run(&workspace, &arguments),
        Task::Bench { arguments } => bench::run(&workspace, &arguments),
        Task::BenchPull(options) => pull::run(&workspace, &options),
        Task::Test => checks::test(&workspace),
        Task::Lint => checks::lint(&workspace),
        Task::Deny => deny::run(&workspace),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::Ci => {
            checks::test(&workspace)?;
            bench::quick(&workspace)?;
            deny::run(&workspace)?;
            checks::lint(&workspace)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bench_passes_options_on_as_they_are() {
        let Task::Bench { arguments } =
            Arguments::parse_from(["xtask", "bench", "--quick", "--rounds", "3"]).task
        else {
            panic!("it is not read as a bench");
        };
        assert_eq!(arguments, ["--quick", "--rounds", "3"]);
    }

    #[test]
    fn run_passes_options_and_command_on_as_they_are() {
        for line in [
            &["-v", "--", "sh", "-c", "exit 3"][..],
            &["uname", "-a"],
            &["--timeout", "5s", "--", "true"],
        ] {
            let words = ["xtask", "run"].iter().chain(line);
            let Task::Run { arguments } = Arguments::parse_from(words).task else {
                panic!("{line:?} is not read as a run");
            };
            assert_eq!(
                arguments,
                line.iter().map(OsString::from).collect::<Vec<_>>()
            );
        }
    }
}
