//! The command `ironclaw run`.

mod by_daemon;
mod changes;
mod forward;
mod report;
mod times;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use ironclaw_console::guest_io::{self, Ended, Input, Sink};
use ironclaw_console::output::milliseconds;
use ironclaw_console::progress::{self, Reporter};
use ironclaw_console::signals::Signals;
use ironclaw_console::streams;
use ironclaw_console::terminal;
use ironclaw_console::{Marked, causes};
use ironclaw_orchestrator::template::Template;
use ironclaw_orchestrator::vm::{
    Command, Config, GuestError, LaunchError, Launcher, Origin, Pool, PoolError, PoolOptions,
    Progress, Stage, VmHandle,
};
use tokio::time::timeout;

use changes::ChangesFile;
use forward::Listeners;
use report::{Done, out_of, sink};
use times::Times;

use crate::args::Run;
use crate::exit::VmEnded;
use crate::misuse::Misuse;

/// Time that the end of a VM may come after the end of its connection.
const VM_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the command, in a sandbox of the daemon if one runs; returns its exit code. A signal before its start ends
/// us; later signals are forwarded to the command.
pub(crate) async fn run(
    config: Config,
    set: &[(String, OsString)],
    run: Run,
    json: bool,
) -> Result<u8> {
    let mut signals = Signals::terminating()?;
    // Before there is a VM that it would be too late for.
    let listeners = signals.until_first(Listeners::open(&run.ports)).await?;
    let begin = by_daemon::begin(&config, set, &run, json);
    let done = match signals.until_first(begin).await? {
        Some(begun) => begun.follow(listeners, &run, json, &mut signals).await?,
        None => by_itself(config, listeners, &run, json, &mut signals).await?,
    };
    done.tell(&run)
}

/// Runs the command in a VM of this process.
async fn by_itself(
    config: Config,
    listeners: Listeners,
    run: &Run,
    json: bool,
    signals: &mut Signals,
) -> Result<Done> {
    let memory_mib = run.memory.unwrap_or(config.machine.memory_mib);
    let provided = signals.until_first(provide(config, run, json)).await?;
    let Provided {
        pool,
        handle,
        command,
        mut times,
        changes,
    } = provided;
    let origin = handle.origin();
    if run.verbose {
        say_origin(origin, &times);
    }

    let mut sink = sink(json)?;
    signals.add_forwarded()?;
    let forwarding = listeners.forward(&handle.client());
    let start = Instant::now();
    let terminal = run
        .tty
        .then_some(if run.stdin { Input::Typed } else { Input::None });
    let result = follow(&handle, command, terminal, &mut sink, signals).await;
    times.command = start.elapsed();
    let result = match result {
        Err(error) => Err(explain(&handle, error, memory_mib).await),
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
    Ok(Done {
        result,
        sink,
        origin,
        times,
        memory_mib,
    })
}

/// A VM for the command, and what has to be there before it.
struct Provided {
    pool: Pool,
    handle: VmHandle,
    command: Command,
    times: Times,
    changes: Option<ChangesFile>,
}

/// Spawns a VM for the command.
async fn provide(mut config: Config, run: &Run, json: bool) -> Result<Provided> {
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
