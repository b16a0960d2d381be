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

use anyhow::Result;

pub use args::Task;

use crate::address::Address;
use crate::client::Client;

/// The variable that names a daemon where `--host` does not.
pub const HOST: &str = "IRONCLAW_HOST";

/// The variable with the key by which a daemon is asked.
pub const KEY: &str = "IRONCLAW_API_KEY";

/// Does what is asked for; returns the exit code.
///
/// `socket` is where a daemon of these settings listens if nobody says otherwise.
///
/// # Errors
/// [`ClientError`](crate::ClientError), and those of the standard streams.
pub async fn perform(socket: &Path, task: Task, json: bool) -> Result<u8> {
    let client = client(socket, task.host())?;
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

fn client(socket: &Path, host: Option<&Address>) -> Result<Client> {
    let named = std::env::var(HOST).ok().filter(|text| !text.is_empty());
    let address = match (host, named) {
        (Some(address), _) => address.clone(),
        (None, Some(text)) => text.parse()?,
        (None, None) => Address::Unix(socket.to_owned()),
    };
    let key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
    Ok(Client::new(address, key))
}
