//! Runs the command in a sandbox of a daemon, whose clones are warm.
//!
//! Where nobody names a daemon, that of these settings is asked if it runs, and otherwise the process does all
//! itself, as it does what no daemon can.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use anyhow::Result;
use ironclaw_client::commands::client_of;
use ironclaw_client::{
    Address, Begun, Client, ClientError, Exec, HostChoice, Run as Request, Size, WantedMachine,
};
use ironclaw_console::output::milliseconds;
use ironclaw_console::signals::Signals;
use ironclaw_console::{progress, streams, terminal};
use ironclaw_orchestrator::template::TemplateChoice;
use ironclaw_orchestrator::vm::config::{
    BACKEND, DAEMON_CA_FILE, DISK_MIB, MEMORY_MIB, RUN_PATH, SNAPSHOT_PATH, TEMPLATE,
    TEMPLATE_PATH, VCPUS,
};
use ironclaw_orchestrator::vm::vmm::VmmKind;
use ironclaw_orchestrator::vm::{Config, Origin};
use ironclaw_settings::{SetBy, Setting};

use super::forward::Listeners;
use super::report::{Done, sink};
use super::times::Times;
use crate::args::Run;
use crate::config;
use crate::exit;
use crate::misuse::Misuse;

/// Settings which a daemon is told, or found by: it has its own of all others.
const OF_A_RUN: [&Setting; 9] = [
    &BACKEND,
    &DAEMON_CA_FILE,
    &DISK_MIB,
    &MEMORY_MIB,
    &TEMPLATE,
    &VCPUS,
    &RUN_PATH,
    &SNAPSHOT_PATH,
    &TEMPLATE_PATH,
];

/// A run that a daemon has begun.
pub(super) struct ByDaemon {
    client: Client,
    begun: Begun,
    /// Time until the sandbox was there, beside its spawn.
    open: Duration,
}

/// Asks a daemon to run the command; `None` if this process has to do it itself.
pub(super) async fn begin(
    config: &Config,
    set: &[(String, OsString)],
    run: &Run,
    json: bool,
) -> Result<Option<ByDaemon>> {
    let host = HostChoice::of(run.host.clone())?;
    let (address, is_named) = match host {
        Some(HostChoice::Nobody) => return Ok(None),
        Some(HostChoice::At(address)) => (address, true),
        None => (Address::Unix(ironclaw_daemon::socket(config)), false),
    };
    let asked = match request(config, set, run, json)? {
        Ok(asked) => asked,
        Err(what) if is_named => return Err(Misuse::NotByDaemon { what, address }.into()),
        Err(_) => return Ok(None),
    };
    let ca = match &run.ca {
        Some(path) => Some(path.clone()),
        None => config::daemon_ca_file(set)?,
    };
    let client = client_of(address, ca.as_deref())?;
    let start = Instant::now();
    match asked.begin(&client, run.stdin).await {
        Ok(begun) => {
            let open = start.elapsed().saturating_sub(begun.timings.total);
            Ok(Some(ByDaemon {
                client,
                begun,
                open,
            }))
        }
        Err(error) if !is_named && is_for_ourselves(&error) => Ok(None),
        Err(error) => Err(exit::of_run(error)),
    }
}

/// Returns whether a daemon that nobody has named is none, or one that refuses what this process can do.
fn is_for_ourselves(error: &ClientError) -> bool {
    match error {
        ClientError::NoDaemon { .. } => true,
        // A daemon of an older release has no such call.
        ClientError::Refused(refusal) => {
            ["other_machine", "no_call"].contains(&refusal.kind.as_str())
        }
        _ => false,
    }
}

impl ByDaemon {
    /// Runs the command, whose sandbox ends with it.
    pub(super) async fn follow(
        self,
        listeners: Listeners,
        run: &Run,
        json: bool,
        signals: &mut Signals,
    ) -> Result<Done> {
        let Self {
            client,
            begun,
            open,
        } = self;
        let memory_mib = begun.sandbox.memory_mib;
        let origin = begun.origin.unwrap_or(Origin::Warm);
        let mut times = Times {
            open,
            pool: Duration::ZERO,
            spawn: begun.timings,
            command: Duration::ZERO,
        };
        if run.verbose {
            progress::note(&format!(
                "VM: {origin} in {:.1} ms ({}), of the daemon on {}; beside that: open {:.1} ms",
                milliseconds(times.spawn.total),
                times.of_spawn(),
                client.address(),
                milliseconds(times.open),
            ));
        }
        let mut sink = sink(json)?;
        signals.add_forwarded()?;
        let forwarding = listeners.forward_by(&client, &begun.sandbox.id);
        let start = Instant::now();
        let result = begun.follow(&mut sink, signals).await;
        times.command = start.elapsed();
        drop(forwarding);
        Ok(Done {
            result,
            sink,
            origin,
            times,
            memory_mib,
        })
    }
}

/// Returns what a daemon is asked for, or what it can't do of it.
fn request(
    config: &Config,
    set: &[(String, OsString)],
    run: &Run,
    json: bool,
) -> Result<Result<Request, String>> {
    if let Some(what) = beyond_a_daemon(set, run) {
        return Ok(Err(what));
    }
    let template = match (&run.template.template, &config.template) {
        (Some(name), _) | (None, TemplateChoice::Named(name)) => name.to_string(),
        (None, _) => String::new(),
    };
    let machine = machine(config, set, run)?;
    let (argv, of_image) = match &run.entrypoint {
        None => (run.command.clone(), true),
        Some(program) => {
            let program = Some(program.clone()).filter(|program| !program.is_empty());
            let argv = program.into_iter().chain(run.command.iter().cloned());
            (argv.collect(), false)
        }
    };
    if argv.is_empty() && !of_image {
        return Err(Misuse::NothingToRun.into());
    }
    let command = || -> Result<Exec, String> {
        let size = terminal::size();
        let mut env = BTreeMap::new();
        if let (true, Some(kind)) = (run.tty, std::env::var_os("TERM")) {
            env.insert("TERM".to_owned(), text(&kind)?);
        }
        for (name, value) in &run.env {
            env.insert(text(name)?, text(value)?);
        }
        Ok(Exec {
            argv: argv
                .iter()
                .map(|word| text(word))
                .collect::<Result<_, _>>()?,
            env,
            cwd: run
                .cwd
                .as_ref()
                .map(|path| text(path.as_os_str()))
                .transpose()?,
            user: run.user.as_ref().map(|user| text(user)).transpose()?,
            timeout_ms: run
                .timeout
                .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)),
            open_stdin: run.stdin && !run.tty,
            tty: run.tty.then_some(Size {
                columns: size.columns,
                rows: size.rows,
            }),
            stderr_to_stdout: !run.tty && !json && streams::go_to_one_place(),
        })
    };
    Ok(command().map(|command| Request {
        template,
        machine,
        command,
        of_image,
    }))
}

/// Returns what no daemon can do of a run: what is on this machine's disk, or set for this command alone.
fn beyond_a_daemon(set: &[(String, OsString)], run: &Run) -> Option<String> {
    if run.template.image.is_some() {
        return Some("--image".to_owned());
    }
    if run.changes.is_some() {
        return Some("--changes".to_owned());
    }
    let other = set
        .iter()
        .find(|(key, _)| OF_A_RUN.iter().all(|setting| setting.key != key));
    other.map(|(key, _)| format!("--set {key}"))
}

/// Returns what the machine has to be like: what a file says the daemon has read, too.
fn machine(config: &Config, set: &[(String, OsString)], run: &Run) -> Result<WantedMachine> {
    let values = config::of_process(set)?;
    let here = |setting| {
        let set_by = values.set(setting).map(|value| &value.set_by);
        set_by.is_some_and(|by| !matches!(by, SetBy::File { .. }))
    };
    let has = &config.machine;
    let backend = match &run.backend {
        Some(choice) => choice.kind(),
        None if here(&BACKEND) => config.backend.kind(),
        None => None,
    };
    Ok(WantedMachine {
        vcpus: here(&VCPUS).then_some(has.vcpus),
        memory_mib: run
            .memory
            .or_else(|| here(&MEMORY_MIB).then_some(has.memory_mib)),
        disk_mib: run
            .disk
            .or_else(|| has.disk_mib.filter(|_| here(&DISK_MIB))),
        backend: backend.map(VmmKind::name),
    })
}

/// Returns a word as a daemon takes it.
fn text(word: &OsStr) -> Result<String, String> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{}, which is not UTF-8,", word.display()))
}
