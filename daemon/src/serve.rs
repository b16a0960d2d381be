//! The command `ironclaw serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_console::output;
use ironclaw_console::progress::Reporter;
use ironclaw_console::signals::Signals;
use ironclaw_orchestrator::vm::Config;
use ironclaw_serve::{Bounds, Database, Keys, Sandboxes, Server, Templates};
use serde::Serialize;

use crate::serve_args::Serve;

#[derive(Debug, Serialize)]
struct Listening {
    address: SocketAddr,
    socket: PathBuf,
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
    state(config, None).join("socket")
}

/// Serves until a signal ends it.
///
/// # Errors
/// If it can't start.
pub async fn run(config: Config, serve: Serve, json: bool) -> Result<u8> {
    let directory = state(&config, serve.state);
    let database = Database::open(&directory)?;
    let keys = Keys::of(&database);
    let mut signals = Signals::terminating()?;
    let mut server = Server::new(Bounds::default());
    let address = server.listen_tcp(serve.listen).await?;
    let path = serve.socket.unwrap_or_else(|| directory.join("socket"));
    server.listen_unix(&path).await?;
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
        address,
        socket: path,
        keys: number,
        sandboxes: taken_up,
    };
    tell(&listening, json)?;
    // Who started it by systemd's protocol waits for that.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "nobody is told that the daemon is ready");
    }
    let end = async {
        let _ = signals.next().await;
        // Clients wait for nothing that is being made any more.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    };
    server.serve(sandboxes.clone(), keys, end).await;
    sandboxes
        .drain(Duration::from_secs(serve.drain_timeout.into()))
        .await;
    Ok(0)
}

fn tell(listening: &Listening, json: bool) -> Result<()> {
    if json {
        return output::json(listening);
    }
    output::line(&format!("listening on http://{}", listening.address))?;
    output::line(&format!("and on {}", listening.socket.display()))?;
    if listening.sandboxes > 0 {
        output::line(&format!("sandboxes taken up: {}", listening.sandboxes))?;
    }
    match listening.keys {
        0 => output::line("there is no API key; `ironclaw key create NAME` makes one"),
        _ => Ok(()),
    }
}
