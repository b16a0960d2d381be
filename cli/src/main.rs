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
use ironclaw_orchestrator::vm::Config;
use tracing_subscriber::EnvFilter;

use args::{Cli, Task};

/// For work that a signal cut off: tasks drop what they hold, threads get this long to end.
const RUNDOWN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let Cli { json, task } = Cli::of_process();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runs = matches!(task, Task::Run(_));
    match with_runtime(task, json) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if runs && json {
                // If that fails as well, standard error and the exit code are left.
                let _ = run::print_failure(&error);
            }
            if let Some(text) = exit::text(&error) {
                progress::note(&format!("error: {text}"));
            }
            ExitCode::from(exit::code(&error))
        }
    }
}

fn with_runtime(task: Task, json: bool) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start threads")?;
    let result = runtime.block_on(perform(task, json));
    runtime.shutdown_timeout(RUNDOWN);
    result
}

async fn perform(task: Task, json: bool) -> Result<u8> {
    let config = Config::from_env;
    match task {
        Task::Completions { shell } => completions::print(shell),
        // Ends at a signal by itself, with a report.
        Task::Soak(task) => soak::run(&config()?, task, json).await,
        Task::Run(task) => until_signal(run::run(config()?, task, json)).await,
        Task::Template(task) => until_signal(template::perform(&config()?, task, json)).await,
        Task::Snapshot(task) => until_signal(snapshot::perform(&config()?, task, json)).await,
        Task::Pool(task) => until_signal(pool::perform(&config()?, task, json)).await,
        Task::Doctor => until_signal(doctor::run(&config()?, json)).await,
        Task::Bench(task) => until_signal(bench::run(&config()?, &task, json)).await,
    }
}

/// A signal drops the work, and with it every VM: a handle kills its VM when dropped.
async fn until_signal(work: impl Future<Output = Result<u8>>) -> Result<u8> {
    let signal = signals::first()?;
    tokio::select! {
        result = work => result,
        signal = signal => Err(signal.into()),
    }
}
