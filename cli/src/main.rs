//! The `ironclaw` command: runs commands in fresh microVMs.

mod args;
mod bench;
mod completions;
mod descriptors;
mod doctor;
mod each;
mod environment;
mod exit;
mod failure;
mod guest_io;
mod help;
mod logging;
mod output;
mod pool;
mod progress;
mod run;
mod runtime;
mod signals;
mod snapshot;
mod soak;
mod statistics;
mod streams;
mod template;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use ironclaw_orchestrator::vm::{Config, dropped_vms_ended};
use tokio::time::timeout;

use args::{Cli, Task};
use signals::until_first;

/// For work that a signal cut off: tasks drop what they hold; threads, and then VMs, get this long
/// to end.
const RUNDOWN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let Cli { json, task } = Cli::of_process();
    let code = with_runtime(task, json).unwrap_or_else(|error| failure::tell(&error, json));
    ExitCode::from(code)
}

fn with_runtime(task: Task, json: bool) -> Result<u8> {
    logging::start()?;
    environment::warn_of_strays();
    descriptors::allow_most();
    let runtime = runtime::start()?;
    let result = runtime.block_on(perform(task, json));
    runtime.shutdown_timeout(RUNDOWN);
    await_dropped_vms();
    result
}

/// A VM's files go when it has ended: what was dropped in the end may not have, yet. What stays
/// nevertheless is swept by the next run.
fn await_dropped_vms() {
    let timer = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    if let Ok(timer) = timer {
        let _ = timer.block_on(async { timeout(RUNDOWN, dropped_vms_ended()).await });
    }
}

async fn perform(task: Task, json: bool) -> Result<u8> {
    let config = Config::from_env;
    match task {
        Task::Completions { shell } => completions::print(shell),
        // These end at a signal by themselves: there is something to do yet.
        Task::Bench(task) => bench::run(&config()?, &task, json).await,
        Task::Run(task) => run::run(config()?, task, json).await,
        Task::Soak(task) => soak::run(&config()?, task, json).await,
        Task::Template(task) => until_first(template::perform(&config()?, task, json)).await,
        Task::Snapshot(task) => until_first(snapshot::perform(&config()?, task, json)).await,
        Task::Pool(task) => until_first(pool::perform(&config()?, task, json)).await,
        Task::Doctor => until_first(doctor::run(&config()?, json)).await,
    }
}
