//! The commands of `ironclaw` that ask a daemon.

mod args;
mod cp;
mod exec;
mod help;
mod life;
mod logs;
mod port;
mod which;

use std::path::Path;

use anyhow::{Result, bail};

use args::Daemon;
pub use args::Task;

use crate::address::Address;
use crate::choice::HostChoice;
use crate::client::Client;
use crate::refusal::ClientError;

pub use crate::choice::HOST;

/// The variable with the key by which a daemon is asked.
pub const KEY: &str = "IRONCLAW_API_KEY";

/// Does what is asked for; returns the exit code.
///
/// `socket` is where a daemon of these settings listens if nobody says otherwise, and `ca` a file with authorities
/// that are trusted beside the system's.
///
/// # Errors
/// [`ClientError`], and those of the standard streams.
pub async fn perform(socket: &Path, ca: Option<&Path>, task: Task, json: bool) -> Result<u8> {
    let client = client(socket, ca, task.daemon())?;
    match task {
        Task::Create(task) => life::create(&client, task, json).await?,
        Task::Ls(task) => life::list(&client, task, json).await?,
        Task::Exec(task) => return exec::exec(&client, task, json).await,
        Task::Pause(task) => life::pause(&client, task, json).await?,
        Task::Resume(task) => life::resume(&client, task, json).await?,
        Task::Fork(task) => life::fork(&client, task, json).await?,
        Task::Rm(task) => life::remove(&client, task, json).await?,
        Task::Cp(task) => cp::copy(&client, task, json).await?,
        Task::Logs(task) => logs::logs(&client, task, json).await?,
        Task::Port(task) => port::forward(&client, task, json).await?,
    }
    Ok(0)
}

/// Returns a client of the daemon that is named, or of that at this socket.
fn client(socket: &Path, ca: Option<&Path>, daemon: &Daemon) -> Result<Client> {
    let host = daemon.host.clone().map(HostChoice::At);
    let address = match HostChoice::of(host)? {
        Some(HostChoice::At(address)) => address,
        Some(HostChoice::Nobody) => bail!("{HOST} names no daemon, and this command asks one"),
        None => Address::Unix(socket.to_owned()),
    };
    Ok(client_of(address, daemon.ca.as_deref().or(ca))?)
}

/// Returns a client of a daemon, with the key that the environment has.
///
/// # Errors
/// [`ClientError`].
pub fn client_of(address: Address, ca: Option<&Path>) -> Result<Client, ClientError> {
    let key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
    Client::new(address, key, ca)
}
