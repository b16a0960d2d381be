//! The bench's daemon, its sandboxes in number, and what it takes of the host while it idles.

use std::ffi::OsString;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ironclaw_client::{Client, Method, Page};
use ironclaw_orchestrator::vm::config::{MAX_WARM, MIN_WARM, POOL_SIZE};
use procfs::process::Process;
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::side;
use crate::bench::text;
use crate::daemon::{self, Start};

/// Sandboxes that are made at a time to be listed.
const MAKERS: usize = 10;

/// How long it is watched while it idles: a second for each round, but no more.
const MAX_IDLE: Duration = Duration::from_secs(10);

pub(super) struct Daemon {
    daemon: daemon::Daemon,
    key: String,
    /// What it keeps.
    _state: TempDir,
}

/// A daemon that nobody asks anything.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Idle {
    rss_bytes: u64,
    seconds: f64,
    /// How often one of its threads was switched to that had waited.
    wake_ups: u64,
}

impl Daemon {
    /// Starts it with these settings, `KEY=VALUE`, over those of the environment, and waits until it has so
    /// many warm clones of the template.
    pub(super) async fn start(
        settings: &[OsString],
        template: &str,
        warm: usize,
        limit: usize,
    ) -> Result<Self> {
        let state = tempfile::tempdir().context("can't make a directory for a daemon")?;
        let warm = warm.to_string();
        let start = Start::new(settings, state.path().to_owned())
            .set(MIN_WARM.key, &warm)
            .set(MAX_WARM.key, &warm)
            .set(POOL_SIZE.key, "1")
            .with("--warm", template)
            .with("--limit", limit.to_string());
        let key = start.create_key("bench").await?;
        let daemon = Self {
            daemon: start.start(&key).await?,
            key,
            _state: state,
        };
        daemon.warm_up(template).await?;
        Ok(daemon)
    }

    pub(super) fn client(&self) -> &Client {
        self.daemon.client()
    }

    /// Returns the key of its API.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) async fn warm_up(&self, template: &str) -> Result<()> {
        side::warm_up(self.client(), template).await
    }

    /// Makes so many sandboxes, and lists them so often, in one answer; they end with the daemon.
    pub(super) async fn listed(
        &self,
        template: &str,
        count: usize,
        rounds: usize,
    ) -> Result<Vec<Duration>> {
        let mut making = JoinSet::new();
        for maker in 0..MAKERS.min(count) {
            let (client, template) = (self.client().clone(), template.to_owned());
            let own = count / MAKERS + usize::from(maker < count % MAKERS);
            making.spawn(async move {
                let mut channel = client.connect().await?;
                for _ in 0..own {
                    side::create(&mut channel, &template).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(made) = making.join_next().await {
            made.context("a task failed")??;
        }
        let mut channel = self.client().connect().await?;
        let path = format!("/v1/sandboxes?limit={count}");
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let begin = Instant::now();
            let page: Page = channel.call(Method::GET, &path, None::<&()>).await?;
            times.push(begin.elapsed());
            let found = page.sandboxes.len();
            ensure!(found == count, "{found} of {count} sandboxes are listed");
        }
        Ok(times)
    }

    /// Ends all sandboxes.
    pub(super) async fn emptied(&self) -> Result<()> {
        let mut channel = self.client().connect().await?;
        let page: Page = channel
            .call(Method::GET, "/v1/sandboxes?limit=1000", None::<&()>)
            .await?;
        for sandbox in page.sandboxes {
            let path = format!("/v1/sandboxes/{}", sandbox.id);
            channel.ask(Method::DELETE, &path, Bytes::new()).await?;
        }
        Ok(())
    }

    /// Watches it while nobody asks it anything.
    pub(super) async fn idle(&self, rounds: u64) -> Result<Idle> {
        let process = self.daemon.process()?;
        let begin = Instant::now();
        let before = wake_ups(&process)?;
        sleep(MAX_IDLE.min(Duration::from_secs(rounds))).await;
        let after = wake_ups(&process)?;
        let seconds = begin.elapsed().as_secs_f64();
        let kibibytes = process
            .status()?
            .vmrss
            .context("the kernel counts no memory")?;
        Ok(Idle {
            rss_bytes: kibibytes * 1024,
            seconds,
            wake_ups: after.saturating_sub(before),
        })
    }

    /// Ends it in order.
    pub(super) async fn end(self) -> Result<()> {
        self.daemon.end().await
    }
}

/// Counts the switches to threads of a process that had waited.
fn wake_ups(process: &Process) -> Result<u64> {
    let mut count = 0;
    for task in process.tasks()? {
        // One may have ended.
        if let Ok(status) = task?.status() {
            count += status.voluntary_ctxt_switches.unwrap_or_default();
        }
    }
    Ok(count)
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} MiB, {} wake-ups in {:.0} s",
            text::in_mebibytes(self.rss_bytes),
            self.wake_ups,
            self.seconds
        )
    }
}
