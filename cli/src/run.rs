//! The command `ironclaw run`.

mod changes;
mod forward;
mod times;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use ironclaw_console::guest_io::{self, Ended, Input, Sink};
use ironclaw_console::output::{self, milliseconds};
use ironclaw_console::progress::{self, Reporter};
use ironclaw_console::signals::Signals;
use ironclaw_console::streams;
use ironclaw_console::terminal;
use ironclaw_console::{Marked, causes};
use ironclaw_orchestrator::template::Template;
use ironclaw_orchestrator::vm::{
    Command, Config, ExitStatus, GuestError, LaunchError, Launcher, Origin, Pool, PoolError,
    PoolOptions, Progress, Stage, VmHandle,
};
use serde::Serialize;
use tokio::time::timeout;

use changes::ChangesFile;
use forward::Listeners;

use crate::args::Run;
use crate::exit::{Code, VmEnded};
use crate::failure;
use crate::misuse::Misuse;
use crate::printed::Output;
use times::Times;

/// Time that the end of a VM may come after the end of its connection.
const VM_END_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
struct Report {
    exit_code: u8,
    signal: Option<i32>,
    timed_out: bool,
    /// Whether the guest ran out of memory and its kernel killed a process of the command for that.
    out_of_memory: bool,
    #[serde(flatten)]
    output: Output,
    origin: Origin,
    timings_ms: Times,
}

/// Runs the command; returns its exit code. A signal before its start ends us; later signals are
/// forwarded to the command.
pub(crate) async fn run(config: Config, run: Run, json: bool) -> Result<u8> {
    let memory = run.memory.unwrap_or(config.machine.memory_mib);
    let mut signals = Signals::terminating()?;
    let provided = signals.until_first(provide(config, &run, json)).await?;
    let Provided {
        pool,
        handle,
        command,
        mut times,
        changes,
        listeners,
    } = provided;
    let origin = handle.origin();
    if run.verbose {
        say_origin(origin, &times);
    }

    let mut sink = if json {
        Sink::memory()
    } else {
        Sink::streams()?
    };
    signals.add_forwarded()?;
    let forwarding = listeners.forward(&handle.client());
    let start = Instant::now();
    let terminal = run
        .tty
        .then_some(if run.stdin { Input::Typed } else { Input::None });
    let result = follow(&handle, command, terminal, &mut sink, &mut signals).await;
    times.command = start.elapsed();
    let result = match result {
        Err(error) => Err(explain(&handle, error, memory).await),
        Ok(ended) => match changes {
            Some(file) => {
                let written = signals.until_first(file.write(&handle));
                written.await.map(|()| ended)
            }
            None => Ok(ended),
        },
    };
    drop(forwarding);
    // The result of the command is known: a signal now only cuts the cleanup short, and dropping
    // the VM kills it anyway.
    tokio::select! {
        () = give_back(handle, pool) => {}
        _ = signals.next() => {}
    }
    if let (true, Ok(Ended { status, .. })) = (run.verbose, &result) {
        progress::note(&format!(
            "command: {status} after {:.1} ms",
            milliseconds(times.command)
        ));
    }
    let output = sink.collected().map(|(out, err)| Output::new(out, err));
    let status = match (result, output) {
        (Err(error), Some(output)) => return Ok(failure::tell_beside(output, &error)),
        (Err(error), None) => return Err(error),
        (Ok(ended), Some(output)) => {
            let Ended {
                status,
                out_of_memory,
                ..
            } = ended;
            output::json(&Report {
                exit_code: code(status),
                signal: if let ExitStatus::Signal(signal) = status {
                    Some(signal)
                } else {
                    None
                },
                timed_out: status == ExitStatus::TimedOut,
                out_of_memory,
                output,
                origin,
                timings_ms: times,
            })?;
            status
        }
        (Ok(ended), None) => {
            let Ended {
                status,
                out_of_memory,
                unconfirmed,
            } = ended;
            if out_of_memory {
                progress::note(&format!(
                    "{}: its kernel killed a process of the command",
                    out_of(memory)
                ));
            }
            if let (ExitStatus::TimedOut, Some(limit)) = (status, run.timeout) {
                let limit = humantime::format_duration(limit);
                progress::note(&if unconfirmed {
                    format!(
                        "the command's time limit of {limit} was over, and the guest did not end \
                         it within a second more: its VM was killed"
                    )
                } else {
                    format!("the command was killed after its time limit of {limit}")
                });
            }
            status
        }
    };
    Ok(code(status))
}

/// A VM for the command, and what has to be there before it.
struct Provided {
    pool: Pool,
    handle: VmHandle,
    command: Command,
    times: Times,
    changes: Option<ChangesFile>,
    listeners: Listeners,
}

/// Spawns a VM for the command.
async fn provide(mut config: Config, run: &Run, json: bool) -> Result<Provided> {
    let listeners = Listeners::open(&run.ports).await?;
    config = run.template.over(config);
    let machine = &mut config.machine;
    machine.disk_mib = run.disk.or(machine.disk_mib);
    machine.memory_mib = run.memory.unwrap_or(machine.memory_mib);
    let machine = *machine;
    config = config.with_machine(machine)?;
    if let Some(backend) = &run.backend {
        config.backend = backend.clone();
    }
    let reporter = Reporter::new();
    let start = Instant::now();
    let launcher = Launcher::open(&config, told(&reporter, run.verbose)).await?;
    let open = start.elapsed();
    let changes = run.changes.as_ref();
    let changes = changes
        .map(|path| ChangesFile::create(path, &launcher))
        .transpose()?;
    let command = command(run, launcher.template(), json).ok_or(Misuse::NothingToRun)?;

    let start = Instant::now();
    // One command needs one VM: prepared clones would be killed unused. An old snapshot serves as
    // it is: building its successor would take processors from the command, and be cut off with it.
    let options = PoolOptions::from(&config)
        .with_size(1)
        .with_standby(0)
        .with_refresh(Duration::MAX);
    let pool = Pool::open(launcher, options.with_warm(0)).await?;
    if pool.stats().snapshots > 0 {
        // Any build now replaces a snapshot that turned out to be damaged: the command does not
        // wait for it.
        reporter.finish();
    }
    if let Err(error) = fill(&pool, &reporter).await {
        if run.verbose {
            say_all(&error);
        }
        return Err(error);
    }
    let ready = start.elapsed();

    let handle = pool.spawn(&format!("run-{}", std::process::id())).await?;
    // The terminal belongs to the command.
    reporter.finish();
    let times = Times {
        open,
        pool: ready,
        spawn: handle.timings(),
        command: Duration::ZERO,
    };
    Ok(Provided {
        pool,
        handle,
        command,
        times,
        changes,
        listeners,
    })
}

/// Returns a callback that shows progress; if asked to, also what made a template warm printed.
fn told(reporter: &Reporter, verbose: bool) -> Progress {
    let (progress, reporter) = (reporter.progress(), reporter.clone());
    Arc::new(move |stage: &Stage| {
        progress(stage);
        if let (true, Stage::WarmedUp(warmed)) = (verbose, stage) {
            reporter.clear();
            progress::note(&format!("{stage}{}", Marked("guest", &warmed.printed)));
        }
    })
}

async fn give_back(handle: VmHandle, pool: Pool) {
    // Even if it is slow to end, the VM is killed.
    if let Err(error) = handle.destroy().await {
        progress::note(&format!("warning: {}", causes(&error)));
    }
    pool.close().await;
}

/// Prints the whole log of a VM that did not come up, whose error has the last lines only.
fn say_all(error: &Error) {
    let Some(PoolError::WarmUp(error)) = error.downcast_ref() else {
        return;
    };
    if let Some(exit) = error.exit() {
        progress::note(&format!("the VM ended: {exit:#}"));
    }
}

/// Makes a snapshot if there is none. Ignores a failure if a boot may still serve.
async fn fill(pool: &Pool, reporter: &Reporter) -> Result<()> {
    match pool.warmup().await {
        Ok(()) => Ok(()),
        // A guest that does not come up for a snapshot does not come up without one.
        Err(PoolError::WarmUp(error))
            if !matches!(
                *error,
                LaunchError::NoBoot { .. } | LaunchError::KernelPanic { .. }
            ) =>
        {
            reporter.clear();
            let why = causes(&*error);
            progress::note(&format!(
                "warning: no snapshot could be made, booting instead: {why}"
            ));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the text about a guest's lack of memory, with the setting.
fn out_of(memory_mib: u32) -> String {
    format!("the guest ran out of its {memory_mib} MiB of memory (IRONCLAW_MEMORY_MIB)")
}

/// Returns the command, unless nobody says which.
fn command(run: &Run, template: &Template, json: bool) -> Option<Command> {
    let origin = template.manifest().root_origin.as_ref();
    let config = origin.map(|origin| origin.config.clone());
    let entrypoint = run
        .entrypoint
        .clone()
        .map(|program| match program.is_empty() {
            true => Vec::new(),
            false => vec![program],
        });
    let argv = config
        .unwrap_or_default()
        .argv(entrypoint, run.command.clone());
    if argv.is_empty() {
        return None;
    }
    let mut command = Command::from(argv);
    if run.tty {
        command = command.pty(terminal::size());
        if let Some(kind) = std::env::var_os("TERM") {
            command = command.env("TERM", kind);
        }
    } else if !json && streams::go_to_one_place() {
        command = command.stderr_to_stdout();
    }
    for (name, value) in &run.env {
        command = command.env(name, value);
    }
    if let Some(directory) = &run.cwd {
        command = command.current_dir(directory);
    }
    if let Some(user) = &run.user {
        command = command.user(user);
    }
    if let Some(limit) = run.timeout {
        command = command.timeout(limit);
    }
    Some(if run.stdin {
        command.stdin_piped()
    } else {
        command
    })
}

async fn follow(
    handle: &VmHandle,
    command: Command,
    terminal: Option<Input>,
    sink: &mut Sink,
    signals: &mut Signals,
) -> Result<Ended> {
    let start = async { Ok(handle.start(command).await?) };
    let running = signals.until_first(start).await?;
    match terminal {
        Some(input) => guest_io::follow_terminal(running, input, sink, signals).await,
        None => guest_io::follow(running, sink, signals).await,
    }
}

/// A connection is closed for one of two reasons; only the VM's process tells which.
async fn explain(handle: &VmHandle, error: Error, memory: u32) -> Error {
    if !matches!(error.downcast_ref(), Some(GuestError::Closed { .. })) {
        return error;
    }
    match timeout(VM_END_TIMEOUT, handle.exited()).await {
        Ok(end) => {
            // Printed by a kernel that had nothing left to kill.
            let starved = end.log.contains("deadlocked on memory");
            let ended = Error::from(VmEnded(end));
            if starved {
                ended.context(out_of(memory))
            } else {
                ended
            }
        }
        Err(_) => error,
    }
}

fn say_origin(origin: Origin, times: &Times) {
    progress::note(&format!(
        "VM: {origin} in {:.1} ms ({}); before that: open {:.1} ms, pool {:.1} ms",
        milliseconds(times.spawn.total),
        times.of_spawn(),
        milliseconds(times.open),
        milliseconds(times.pool)
    ));
}

/// Returns the exit code for a command's end, as in shells; 255 for a signal that does not exist.
fn code(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => code,
        // Linux has 64 signals; a guest may report any number.
        ExitStatus::Signal(signal) => u8::try_from(signal)
            .ok()
            .and_then(|n| n.checked_add(128))
            .unwrap_or(u8::MAX),
        ExitStatus::TimedOut => Code::TimedOut as u8,
        _ => Code::Failed as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::Code(3)), 3);
        assert_eq!(code(ExitStatus::Signal(9)), 137);
        assert_eq!(code(ExitStatus::TimedOut), 124);
    }

    #[test]
    fn a_signal_that_does_not_exist_is_still_a_failure() {
        for signal in [-1, 128, 1000, i32::MIN] {
            assert_eq!(code(ExitStatus::Signal(signal)), 255);
        }
    }
}
