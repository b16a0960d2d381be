//! Ports of this host that lead to ports of a sandbox.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use ironclaw_console::connections::accept;
use ironclaw_console::output;
use ironclaw_console::signals::until_first;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc::channel;
use tokio::task::JoinSet;

use super::args::Port as Args;
use super::which;
use crate::client::Client;
use crate::port_way::{MAX_CONNECTIONS, PortWay};

/// A port that is forwarded.
#[derive(Debug, Serialize)]
struct Forwarded {
    /// Where this host listens.
    address: SocketAddr,
    /// The port of the sandbox.
    port: u16,
}

pub(super) async fn forward(client: &Client, args: Args, json: bool) -> Result<()> {
    until_first(run(client, args, json)).await
}

async fn run(client: &Client, args: Args, json: bool) -> Result<()> {
    let id = which::id(client, &args.sandbox).await?;
    let (mut listeners, mut forwarded) = (Vec::new(), Vec::new());
    for port in &args.ports {
        let (host, port) = (port.host, port.guest);
        let listener = TcpListener::bind(host).await.with_context(|| {
            format!(
                "listen on {host} for the sandbox's port {port}: choose another port or address"
            )
        })?;
        let address = listener.local_addr().context("look at a new port")?;
        forwarded.push(Forwarded { address, port });
        listeners.push((listener, port));
    }
    let (over, mut gone) = channel(1);
    let mut tasks = JoinSet::new();
    for (listener, port) in listeners {
        let (way, over) = (PortWay::new(client, &id, port), over.clone());
        let serve = move |stream, peer| {
            let (way, over) = (way.clone(), over.clone());
            async move {
                if let Err(gone) = way.serve(stream, peer).await {
                    // Another connection may have said so first.
                    let _ = over.try_send(gone);
                }
            }
        };
        tasks.spawn(accept(listener, MAX_CONNECTIONS, serve));
    }
    // They are there for who reads this.
    match json {
        true => output::json(&forwarded)?,
        false => forwarded
            .iter()
            .try_for_each(|it| output::line(&format!("{} -> {}", it.address, it.port)))?,
    }
    match gone.recv().await {
        Some(error) => Err(error.into()),
        // We have a sender ourselves.
        None => Ok(()),
    }
}
