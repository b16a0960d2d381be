//! The `ironclaw` command: runs commands in fresh microVMs.

#![forbid(unsafe_code)]

mod args;
mod completions;
mod config;
mod doctor;
mod exit;
mod failure;
mod help;
mod misuse;
mod printed;
mod run;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use ironclaw_bench::{bench, soak};
use ironclaw_client::commands;
use ironclaw_console::signals::{outlive_file_limit, until_first};
use ironclaw_console::{logging, runtime};
use ironclaw_inventory as inventory;
use ironclaw_inventory::Outcome;
use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_orchestrator::vm::{dropped_vms_ended, raise_open_files};
use ironclaw_settings::is_stray;
use tokio::time::timeout;

use args::{Cli, ConfigTask, Task};
use exit::Code;

/// Timeout of work that a signal interrupts: tasks drop what they hold; threads, and then VMs, have
/// this long to end.
const RUNDOWN_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let Cli { json, set, task } = Cli::of_process();
    let code = with_runtime(task, &set, json).unwrap_or_else(|error| failure::tell(&error, json));
    ExitCode::from(code)
}

fn with_runtime(task: Task, set: &[(String, OsString)], json: bool) -> Result<u8> {
    logging::start(match task {
        Task::Doctor => logging::Default::Errors,
        _ => logging::Default::Warnings,
    })?;
    warn_of_strays();
    if let Err(error) = raise_open_files() {
        tracing::debug!(%error, "the limit of open files stays");
    }
    let runtime = runtime::start()?;
    let result = runtime.block_on(perform(task, set, json));
    runtime.shutdown_timeout(RUNDOWN_TIMEOUT);
    await_dropped_vms();
    result
}

/// Warns of variables that were meant to set something.
fn warn_of_strays() {
    let names = std::env::vars_os().map(|(name, _)| name);
    let is_ours = |name: &OsString| {
        [commands::HOST, commands::KEY]
            .iter()
            .any(|ours| name == ours)
    };
    for name in names.filter(|name| is_stray(name, SETTINGS) && !is_ours(name)) {
        tracing::warn!(
            "{} is no setting and changes nothing; `ironclaw run --help` lists the settings",
            name.display()
        );
    }
}

/// Waits for the cleanup of VMs that were dropped last. The next run sweeps what is left
/// nevertheless.
fn await_dropped_vms() {
    let timer = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    if let Ok(timer) = timer {
        let _ = timer.block_on(async { timeout(RUNDOWN_TIMEOUT, dropped_vms_ended()).await });
    }
}

async fn perform(task: Task, set: &[(String, OsString)], json: bool) -> Result<u8> {
    outlive_file_limit()?;
    let config = || config::read(set);
    match task {
        Task::Completions { shell } => completions::print(shell),
        Task::Config(ConfigTask::Show) => config::show(set, json),
        // These handle signals themselves, because they clean up.
        Task::Bench(task) => {
            let config = task.template.over(config()?);
            found(bench::run(&config, &task.options(set), json).await?)
        }
        Task::Run(task) => run::run(config()?, set, task, json).await,
        Task::Soak(task) => found(soak::run(&config()?, &task.options(set), json).await?),
        Task::Serve(task) => ironclaw_daemon::serve(config()?, task, json).await,
        Task::Key(task) => found(ironclaw_daemon::key(&config()?, task, json)?),
        Task::Ask(task) => {
            let socket = ironclaw_daemon::socket(&config()?);
            let ca = config::daemon_ca_file(set)?;
            commands::perform(&socket, ca.as_deref(), task, json).await
        }
        Task::Template(task) => ended(inventory::template(&config()?, task, json)).await,
        Task::Snapshot(task) => ended(inventory::snapshot(&config()?, task, json)).await,
        Task::Pool(task) => ended(inventory::pool(config()?, task, json)).await,
        Task::Doctor => until_first(doctor::run(&config()?, json)).await,
    }
}

/// Returns the exit code of a command that a signal ends.
async fn ended(work: impl Future<Output = Result<Outcome>>) -> Result<u8> {
    until_first(async {
        Ok(match work.await? {
            Outcome::Done => 0,
            Outcome::Found => Code::Found as u8,
            Outcome::Failed => Code::Failed as u8,
        })
    })
    .await
}

/// Returns the exit code of a command that checks something.
fn found(all_is_well: bool) -> Result<u8> {
    Ok(if all_is_well { 0 } else { Code::Found as u8 })
}
