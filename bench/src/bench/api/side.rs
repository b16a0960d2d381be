//! The library and the daemon, asked for the same.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ironclaw_client::{Channel, Client, Done, Exec, Method, NewSandbox, Sandbox};
use ironclaw_orchestrator::vm::{Command, Pool, VmHandle};

/// The first command. It costs little itself.
const COMMAND: [&str; 2] = ["echo", "bench"];

/// Limit of the command's run, under a translator on a busy machine.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Whom sandboxes are asked of.
#[derive(Debug, Clone)]
pub(super) enum Side {
    Library(Pool),
    /// With the template's name.
    Api(Client, String),
}

/// The times of one sandbox, each since it was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    pub(super) created: Duration,
    /// The first command has ended.
    pub(super) answered: Duration,
}

/// A sandbox.
#[derive(Debug)]
pub(super) enum Vm {
    Library(VmHandle),
    Api(Client, String),
}

impl Side {
    /// Waits until it has its warm clones.
    pub(super) async fn warm_up(&self) -> Result<()> {
        match self {
            Self::Library(pool) => Ok(pool.warmup().await?),
            Self::Api(client, template) => warm_up(client, template).await,
        }
    }

    /// Makes a sandbox, runs the command, and ends it.
    pub(super) async fn serve(&self) -> Result<Served> {
        let (served, vm) = match self {
            Self::Library(pool) => of_library(pool, Instant::now()).await?,
            Self::Api(client, template) => {
                // Clients keep their connections.
                let mut channel = client.connect().await?;
                of_api(&mut channel, client, template, Instant::now()).await?
            }
        };
        vm.end().await?;
        Ok(served)
    }

    /// Makes a sandbox and runs the command, with a connection of its own; times begin with `begin`.
    pub(super) async fn serve_since(&self, begin: Instant) -> Result<(Served, Vm)> {
        match self {
            Self::Library(pool) => of_library(pool, begin).await,
            Self::Api(client, template) => {
                let mut channel = client.connect().await?;
                of_api(&mut channel, client, template, begin).await
            }
        }
    }
}

async fn of_library(pool: &Pool, begin: Instant) -> Result<(Served, Vm)> {
    let vm = pool.spawn("bench").await?;
    let created = begin.elapsed();
    let output = vm
        .exec(Command::from(COMMAND).timeout(COMMAND_TIMEOUT))
        .await?;
    let answered = begin.elapsed();
    ensure!(output.status.success(), "{COMMAND:?}: {}", output.status);
    Ok((Served { created, answered }, Vm::Library(vm)))
}

async fn of_api(
    channel: &mut Channel<'_>,
    client: &Client,
    template: &str,
    begin: Instant,
) -> Result<(Served, Vm)> {
    let id = create(channel, template).await?;
    let created = begin.elapsed();
    let exec = Exec {
        argv: COMMAND.map(str::to_owned).to_vec(),
        ..Exec::default()
    };
    let path = format!("/v1/sandboxes/{id}/exec");
    let done: Done = channel.call(Method::POST, &path, Some(&exec)).await?;
    let answered = begin.elapsed();
    ensure!(done.exit_code == Some(0), "{COMMAND:?}: {done:?}");
    let vm = Vm::Api(client.clone(), id);
    Ok((Served { created, answered }, vm))
}

/// Makes a sandbox; returns its id.
pub(super) async fn create(channel: &mut Channel<'_>, template: &str) -> Result<String> {
    let new = NewSandbox {
        template: template.to_owned(),
        on_deadline: "kill",
        ..NewSandbox::default()
    };
    let made: Sandbox = channel
        .call(Method::POST, "/v1/sandboxes", Some(&new))
        .await?;
    Ok(made.id)
}

/// Waits until the daemon has its warm clones.
pub(super) async fn warm_up(client: &Client, template: &str) -> Result<()> {
    let path = format!("/v1/pools/{template}/warmup");
    Ok(client.perform(Method::POST, &path).await?)
}

impl Vm {
    pub(super) async fn end(self) -> Result<()> {
        match self {
            Self::Library(vm) => Ok(vm.destroy().await?),
            Self::Api(client, id) => {
                let path = format!("/v1/sandboxes/{id}");
                Ok(client.perform(Method::DELETE, &path).await?)
            }
        }
    }
}
