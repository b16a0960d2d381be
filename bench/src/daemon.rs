//! A daemon of this process's own: this program once more, which ends with this process, whatever ends that.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ironclaw_client::{Address, Client};
use ironclaw_host::sys;
use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Limit of its end, in which it pauses or destroys its VMs.
const END_TIMEOUT: Duration = Duration::from_secs(90);

/// How a daemon is started, and started again.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// `KEY=VALUE`, over those of the environment; the last of a key holds.
    settings: Vec<OsString>,
    /// What it keeps of its sandboxes and keys.
    state: PathBuf,
    arguments: Vec<OsString>,
}

/// What it prints when it listens.
#[derive(Debug, Deserialize)]
struct Listening {
    address: Option<SocketAddr>,
}

/// A daemon that listens on loopback.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    client: Client,
}

impl Start {
    pub(crate) fn new(settings: &[OsString], state: PathBuf) -> Self {
        Self {
            settings: settings.to_vec(),
            state,
            arguments: Vec::new(),
        }
    }

    pub(crate) fn set(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        let mut assigned = OsString::from(key);
        assigned.push("=");
        assigned.push(value);
        self.settings.push(assigned);
        self
    }

    /// Adds an argument of `ironclaw serve`, with its value.
    pub(crate) fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.arguments.extend([name.into(), value.into()]);
        self
    }

    fn program(&self) -> Result<Command> {
        let own = std::env::current_exe().context("can't find this program")?;
        let mut command = Command::new(own);
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        Ok(command)
    }

    /// Creates a key of its API.
    pub(crate) async fn create_key(&self, name: &str) -> Result<String> {
        let mut create = self.program()?;
        create.args(["key", "create", name, "--state"]);
        let made = create.arg(&self.state).output().await;
        let made = made.context("can't start this program once more")?;
        ensure!(
            made.status.success(),
            "no key was made: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
        let key = String::from_utf8(made.stdout).context("no key")?;
        Ok(key.trim().to_owned())
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn start(&self, key: &str) -> Result<Daemon> {
        let mut serve = self.program()?;
        serve.args(["--json", "serve", "--listen", "127.0.0.1:0"]);
        serve.args(&self.arguments).arg("--state").arg(&self.state);
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
        let client = Client::new(address, Some(key.to_owned()), None)?;
        Ok(Daemon { child, client })
    }
}

impl Daemon {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns its PID.
    pub(crate) fn pid(&self) -> Result<i32> {
        let pid = self.child.id().context("the daemon has ended")?;
        Ok(pid.try_into()?)
    }

    pub(crate) fn process(&self) -> Result<Process> {
        Ok(Process::new(self.pid()?)?)
    }

    /// Sends it a signal, and waits for its end.
    pub(crate) async fn end_by(mut self, signal: Signal) -> Result<ExitStatus> {
        let pid = Pid::from_raw(self.pid()?).context("the daemon has ended")?;
        kill_process(pid, signal).context("can't end the daemon")?;
        let status = timeout(END_TIMEOUT, self.child.wait()).await;
        Ok(status.context("the daemon does not end")??)
    }

    /// Ends it in order.
    pub(crate) async fn end(self) -> Result<()> {
        let status = self.end_by(Signal::TERM).await?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}
