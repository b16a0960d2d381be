//! A daemon of the bench's own: this program once more, which ends with the bench, whatever ends that.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use ironclaw_client::{Address, Client, Method, Page};
use ironclaw_host::sys;
use ironclaw_orchestrator::vm::config::{MAX_WARM, MIN_WARM, POOL_SIZE};
use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::side;
use crate::bench::text;

/// Sandboxes that are made at a time to be listed.
const MAKERS: usize = 10;

/// How long it is watched while it idles: a second for each round, but no more.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// Limit of its end, in which it destroys its VMs.
const END_TIMEOUT: Duration = Duration::from_secs(90);

/// What it prints when it listens.
#[derive(Debug, Deserialize)]
struct Listening {
    address: Option<SocketAddr>,
}

pub(super) struct Daemon {
    child: Child,
    client: Client,
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
        let own = std::env::current_exe().context("can't find this program")?;
        let program = || {
            let mut command = Command::new(&own);
            for setting in settings {
                command.arg("--set").arg(setting);
            }
            command
        };
        let mut create = program();
        create.args(["key", "create", "bench", "--state"]);
        let made = create.arg(state.path()).output().await;
        let made = made.context("can't start this program once more")?;
        ensure!(
            made.status.success(),
            "no key was made: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
        let key = String::from_utf8(made.stdout).context("no key")?;

        let mut serve = program();
        for setting in [&MIN_WARM, &MAX_WARM] {
            serve.arg("--set").arg(format!("{}={warm}", setting.key));
        }
        serve.arg("--set").arg(format!("{}=1", POOL_SIZE.key));
        serve.args(["--json", "serve", "--listen", "127.0.0.1:0"]);
        serve.args(["--warm", template, "--limit", &limit.to_string()]);
        serve.arg("--state").arg(state.path());
        sys::bind_to_parent(serve.as_std_mut());
        let mut child = serve
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("can't start a daemon")?;
        let mut told = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut text = String::new();
        let Listening { address } = loop {
            let Some(line) = told.next_line().await? else {
                bail!("the daemon ended early: {}", child.wait().await?);
            };
            text += &line;
            if let Ok(listening) = serde_json::from_str(&text) {
                break listening;
            }
        };
        let address = address.context("the daemon listens nowhere")?;
        let address = Address::Tcp(address.to_string());
        let daemon = Self {
            child,
            client: Client::new(address, Some(key.trim().to_owned())),
            _state: state,
        };
        daemon.warm_up(template).await?;
        Ok(daemon)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn warm_up(&self, template: &str) -> Result<()> {
        side::warm_up(&self.client, template).await
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
            let (client, template) = (self.client.clone(), template.to_owned());
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
        let mut channel = self.client.connect().await?;
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
        let mut channel = self.client.connect().await?;
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
        let pid = self.child.id().context("the daemon has ended")?;
        let process = Process::new(pid.try_into()?)?;
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
    pub(super) async fn end(mut self) -> Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let pid = pid.context("the daemon has ended")?;
        kill_process(pid, Signal::TERM).context("can't end the daemon")?;
        let status = timeout(END_TIMEOUT, self.child.wait()).await;
        let status = status.context("the daemon does not end")??;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
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
