//! The `ironclaw` command: runs commands in fresh microVMs.

mod args;
mod bench;
mod completions;
mod doctor;
mod exit;
mod guest_io;
mod help;
mod output;
mod pool;
mod progress;
mod run;
mod signals;
mod snapshot;
mod soak;
mod statistics;
mod template;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use ironclaw_orchestrator::vm::Config;
use tracing_subscriber::EnvFilter;

use args::{Cli, Task};

/// For work that a signal cut off: tasks drop what they hold, threads get this long to end.
const RUNDOWN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match with_runtime(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = exit::code(&error);
            if let Some(text) = exit::text(&error) {
                progress::note(&format!("error: {text}"));
            }
            ExitCode::from(code)
        }
    }
}

fn with_runtime(cli: Cli) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start threads")?;
    let result = runtime.block_on(async {
        // Ends at a signal by itself, with a report.
        if let Task::Soak(soak) = cli.task {
            return soak::run(&Config::from_env()?, soak, cli.json).await;
        }
        // A signal drops the work, and with it every VM: a handle kills its VM when dropped.
        let signal = signals::first()?;
        tokio::select! {
            result = perform(cli) => result,
            signal = signal => Err(signal.into()),
        }
    });
    runtime.shutdown_timeout(RUNDOWN);
    result
}

async fn perform(cli: Cli) -> Result<u8> {
    let json = cli.json;
    if let Task::Completions { shell } = cli.task {
        return completions::print(shell);
    }
    let config = Config::from_env()?;
    match cli.task {
        Task::Run(run) => run::run(config, run, json).await,
        Task::Template(task) => template::perform(&config, task, json).await,
        Task::Snapshot(task) => snapshot::perform(&config, task, json).await,
        Task::Pool(task) => pool::perform(&config, task, json).await,
        Task::Doctor => doctor::run(&config, json).await,
        Task::Bench(task) => bench::run(&config, &task, json).await,
        Task::Completions { shell } => completions::print(shell),
        Task::Soak(task) => soak::run(&config, task, json).await,
    }
}
