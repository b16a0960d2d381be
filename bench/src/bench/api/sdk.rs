//! A command in a sandbox that runs: by the library, by the daemon's API and by the official Python SDK, in
//! turns.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_client::{Address, Channel, Done, Exec, Method};
use ironclaw_console::output;
use ironclaw_console::progress::Reporter;
use ironclaw_host::sys;
use ironclaw_orchestrator::vm::{Command, Pool, VmHandle};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::daemon::Daemon;
use super::side::{self, COMMAND_TIMEOUT};
use crate::bench::text;
use crate::statistics::Spread;

/// Runs the SDK.
const SCRIPT: &str = include_str!("sdk.py");
/// What runs, and how the SDK has it run: by a login shell.
const COMMAND: &str = "true";
const SHELL: [&str; 4] = ["/bin/bash", "-l", "-c", COMMAND];
/// Limit of the time in which a program of Python starts, or ends.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Runs of each side before the first that counts.
const WARM_UPS: usize = 3;

/// The times of one command.
#[derive(Debug, Serialize)]
pub(super) struct Commands {
    /// The version of the SDK.
    sdk: String,
    command: String,
    library_ms: Spread<f64>,
    api_ms: Spread<f64>,
    sdk_ms: Spread<f64>,
    /// The medians without the library's.
    api_added_ms: f64,
    sdk_added_ms: f64,
}

/// A program of Python with a sandbox of the SDK.
struct Sdk {
    child: Child,
    asks: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
    version: String,
}

/// Measures, with the SDK of this interpreter.
pub(super) async fn measure(
    python: &Path,
    pool: &Pool,
    daemon: &Daemon,
    template: &str,
    rounds: usize,
    reporter: &Reporter,
) -> Result<Commands> {
    reporter.stage("commands by the SDK", true);
    let vm = pool.spawn("bench").await?;
    let client = daemon.client();
    let mut channel = client.connect().await?;
    let id = side::create(&mut channel, template).await?;
    let mut sdk = Sdk::start(python, daemon, template).await?;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..WARM_UPS + rounds {
        reporter.stage(&format!("commands by the SDK, {round} of {rounds}"), false);
        let one = [
            of_library(&vm).await?,
            of_api(&mut channel, &id).await?,
            sdk.run().await?,
        ];
        if round >= WARM_UPS {
            for (times, time) in times.iter_mut().zip(one) {
                times.push(time);
            }
        }
    }
    let version = sdk.end().await?;
    vm.destroy().await?;
    let path = format!("/v1/sandboxes/{id}");
    client.perform(Method::DELETE, &path).await?;
    let spread = |times: Vec<Duration>| Spread::of_times(times).context("nothing was measured");
    let [library_ms, api_ms, sdk_ms] = times.map(spread);
    let (library_ms, api_ms, sdk_ms) = (library_ms?, api_ms?, sdk_ms?);
    Ok(Commands {
        sdk: version,
        command: SHELL.join(" "),
        api_added_ms: api_ms.p50 - library_ms.p50,
        sdk_added_ms: sdk_ms.p50 - library_ms.p50,
        library_ms,
        api_ms,
        sdk_ms,
    })
}

async fn of_library(vm: &VmHandle) -> Result<Duration> {
    let begin = Instant::now();
    let command = Command::from(SHELL).timeout(COMMAND_TIMEOUT);
    let output = vm.exec(command).await?;
    let took = begin.elapsed();
    ensure!(output.status.success(), "{SHELL:?}: {}", output.status);
    Ok(took)
}

async fn of_api(channel: &mut Channel<'_>, id: &str) -> Result<Duration> {
    let exec = Exec {
        argv: SHELL.map(str::to_owned).to_vec(),
        ..Exec::default()
    };
    let path = format!("/v1/sandboxes/{id}/exec");
    let begin = Instant::now();
    let done: Done = channel.call(Method::POST, &path, Some(&exec)).await?;
    let took = begin.elapsed();
    ensure!(done.exit_code == Some(0), "{SHELL:?}: {done:?}");
    Ok(took)
}

impl Sdk {
    async fn start(python: &Path, daemon: &Daemon, template: &str) -> Result<Self> {
        let address = match daemon.client().address() {
            Address::Tcp(address) => format!("http://{address}"),
            other => other.to_string(),
        };
        let mut program = tokio::process::Command::new(python);
        program.args(["-c", SCRIPT, template, COMMAND]);
        program
            .env("E2B_API_URL", &address)
            .env("E2B_SANDBOX_URL", &address)
            .env("E2B_API_KEY", daemon.key());
        sys::bind_to_parent(program.as_std_mut());
        let failed = || format!("can't start {}", python.display());
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(failed)?;
        let asks = child.stdin.take().with_context(failed)?;
        let says = child.stdout.take().with_context(failed)?;
        let mut sdk = Self {
            child,
            asks,
            says: BufReader::new(says).lines(),
            version: String::new(),
        };
        sdk.version = sdk.line(START_TIMEOUT).await?;
        Ok(sdk)
    }

    async fn line(&mut self, limit: Duration) -> Result<String> {
        let line = timeout(limit, self.says.next_line()).await;
        let line = line.context("the SDK does not answer")??;
        line.context("the SDK's program ended: does this Python have the package `e2b`?")
    }

    async fn run(&mut self) -> Result<Duration> {
        self.asks.write_all(b"\n").await?;
        let nanoseconds = self.line(COMMAND_TIMEOUT).await?;
        Ok(Duration::from_nanos(nanoseconds.parse()?))
    }

    /// Ends its sandbox; returns its version.
    async fn end(mut self) -> Result<String> {
        drop(self.asks);
        let status = timeout(START_TIMEOUT, self.child.wait()).await;
        let status = status.context("the SDK's program does not end")??;
        ensure!(status.success(), "the SDK's program ended with {status}");
        Ok(self.version)
    }
}

impl Commands {
    pub(super) fn print(&self) -> Result<()> {
        output::line(&format!(
            "\nmilliseconds of `{}` in a sandbox that runs; SDK {}:",
            self.command, self.sdk
        ))?;
        let rows = [
            ("library", &self.library_ms, 0.0),
            ("API", &self.api_ms, self.api_added_ms),
            ("SDK", &self.sdk_ms, self.sdk_added_ms),
        ];
        let rows = rows.map(|(side, times, added)| {
            [
                side.to_owned(),
                times.samples.to_string(),
                text::milliseconds(times.p50),
                text::milliseconds(times.p95),
                text::milliseconds(added),
            ]
        });
        output::table(["SIDE", "N", "P50", "P95", "ADDED"], rows.into())
    }
}
