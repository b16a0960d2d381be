//! The command `ironclaw serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_console::output;
use ironclaw_console::progress::Reporter;
use ironclaw_console::signals::Signals;
use ironclaw_orchestrator::vm::Config;
use ironclaw_serve::{Audit, Bounds, Database, Keys, Reach, Sandboxes, Server, Templates, Tls};
use serde::Serialize;

use crate::serve_args::{LISTEN, Serve};

/// The names of the socket and the log of requests in the directory of the database.
const SOCKET: &str = "socket";
const AUDIT: &str = "audit.jsonl";

#[derive(Debug, Serialize)]
struct Listening {
    /// The first of the addresses.
    address: Option<SocketAddr>,
    addresses: Vec<SocketAddr>,
    /// `None` if the service manager passed one.
    socket: Option<PathBuf>,
    /// Number of API keys; without one, only the socket lets anybody in.
    keys: usize,
    /// Number of sandboxes taken up from the last daemon.
    sandboxes: usize,
}

/// Returns the directory of the daemon's database.
pub(crate) fn state(config: &Config, set: Option<PathBuf>) -> PathBuf {
    let beside = || {
        let snapshots = &config.snapshot_path;
        snapshots.parent().unwrap_or(snapshots).join("daemon")
    };
    set.unwrap_or_else(beside)
}

/// Returns where the daemon of these settings listens for commands of its own machine.
#[must_use]
pub fn socket(config: &Config) -> PathBuf {
    state(config, None).join(SOCKET)
}

/// Serves until a signal ends it.
///
/// # Errors
/// If it can't start.
pub async fn run(config: Config, serve: Serve, json: bool) -> Result<u8> {
    let directory = state(&config, serve.state.clone());
    let database = Database::open(&directory)?;
    let keys = Keys::of(&database);
    let mut signals = Signals::terminating()?;
    let audit = Audit::open(&directory.join(AUDIT)).context("can't open the log of requests")?;
    let (server, addresses, path) = listen(&serve, &directory).await?;
    let number = keys.list()?.len();
    if serve.check {
        let text = "the daemon can start";
        return output::line(text).map(|()| 0);
    }
    let _claim = database.claim()?;
    let reporter = Reporter::new();
    let templates = Templates::new(config, reporter.progress());
    let sandboxes = Sandboxes::new(templates.clone(), database, usize::from(serve.limit));
    let prepare = async {
        for name in &serve.warm {
            let warmed = templates.warm_up(name).await;
            warmed.with_context(|| format!("can't have clones of template {name:?} ready"))?;
        }
        Ok(sandboxes.take_up().await?)
    };
    let taken_up = signals.until_first(prepare).await?;
    reporter.clear();
    let listening = Listening {
        address: addresses.first().copied(),
        addresses,
        socket: path,
        keys: number,
        sandboxes: taken_up,
    };
    tell(&listening, serve.tls_cert.is_some(), json)?;
    // Who started it by systemd's protocol waits for that.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "nobody is told that the daemon is ready");
    }
    let end = async {
        let _ = signals.next().await;
        // Clients wait for nothing that is being made any more.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    };
    server.serve(sandboxes.clone(), keys, audit, end).await;
    sandboxes
        .drain(Duration::from_secs(serve.drain_timeout.into()))
        .await;
    Ok(0)
}

/// Listens where it is asked to, and on what the service manager passed.
async fn listen(
    serve: &Serve,
    directory: &Path,
) -> Result<(Server, Vec<SocketAddr>, Option<PathBuf>)> {
    let reach = match (&serve.tls_cert, &serve.tls_key) {
        (Some(certificate), Some(key)) => Reach::Tls(Tls::read(certificate, key)?),
        _ if serve.plain_http => Reach::Plain,
        _ => Reach::Loopback,
    };
    let mut bounds = Bounds::default();
    bounds.connections = serve.max_connections.into();
    let mut server = Server::new(bounds);
    let passed = server.listen_passed(&reach)?;
    let mut addresses = passed.tcp;
    let address = match addresses.is_empty() {
        true => serve.listen.or(Some(LISTEN)),
        false => serve.listen,
    };
    if let Some(address) = address {
        addresses.push(server.listen_tcp(address, &reach).await?);
    }
    let path = match (&serve.socket, passed.unix) {
        (Some(path), _) => Some(path.clone()),
        (None, 0) => Some(directory.join(SOCKET)),
        (None, _) => None,
    };
    if let Some(path) = &path {
        server.listen_unix(path, serve.group.as_deref()).await?;
    }
    Ok((server, addresses, path))
}

fn tell(listening: &Listening, tls: bool, json: bool) -> Result<()> {
    if json {
        return output::json(listening);
    }
    let scheme = match tls {
        true => "https",
        false => "http",
    };
    for address in &listening.addresses {
        output::line(&format!("listening on {scheme}://{address}"))?;
    }
    if let Some(path) = &listening.socket {
        output::line(&format!("listening on unix:{}", path.display()))?;
    }
    if listening.sandboxes > 0 {
        output::line(&format!("sandboxes taken up: {}", listening.sandboxes))?;
    }
    match listening.keys {
        0 => output::line("there is no API key; `ironclaw key create NAME` makes one"),
        _ => Ok(()),
    }
}
