//! Ports of this host that lead to ports of a sandbox.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use ironclaw_console::connections::accept;
use ironclaw_console::signals::until_first;
use ironclaw_console::{causes, output, progress};
use serde::Serialize;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;

use super::args::Port as Args;
use super::which::{self, quoted};
use crate::client::Client;
use crate::refusal::ClientError;

/// Connections to one port at a time, as many as the daemon lets to a sandbox; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

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
        let way = Way {
            client: client.clone(),
            path: format!("/v1/sandboxes/{}/ports/{port}", quoted(&id)),
            port,
            over: over.clone(),
        };
        let serve = move |stream, peer| way.clone().serve(stream, peer);
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

/// The way to a port of a sandbox.
#[derive(Debug, Clone)]
struct Way {
    client: Client,
    path: String,
    port: u16,
    /// Takes the reason why no connection leads there any more.
    over: Sender<ClientError>,
}

impl Way {
    /// Forwards one connection to its end. One that the guest refuses is closed, as a server would.
    async fn serve(self, mut stream: TcpStream, peer: SocketAddr) {
        // It is as well without.
        let _ = stream.set_nodelay(true);
        match self.client.tunnel(&self.path).await {
            Ok(mut program) => {
                // Either side may leave at any time.
                let _ = copy_bidirectional(&mut stream, &mut program).await;
            }
            Err(ClientError::Refused(refusal)) if refusal.kind == "not_found" => {
                // Another connection may have said so first.
                let _ = self.over.try_send(refusal.into());
            }
            Err(error) => progress::note(&format!(
                "warning: {peer} can't be connected to port {} of the sandbox: {}",
                self.port,
                causes(&error)
            )),
        }
    }
}
