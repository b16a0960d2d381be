//! Tests `ironclaw serve` with the official SDKs of E2B, unmodified, from their registry.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

#[allow(dead_code, reason = "others use the rest")]
#[path = "../apart/mod.rs"]
mod apart;
mod builds;
mod client;
mod domain;
mod encrypted;
mod faults;
mod javascript;
mod listening;
mod pools;
mod ports;
mod races;
mod readme;
mod run;
mod snapshots;
mod template_build;
#[allow(dead_code, reason = "others use the rest")]
#[path = "../terminal/mod.rs"]
mod terminal;
mod v1;
#[path = "../vm/mod.rs"]
mod vm;
mod watch;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use apart::Apart;
use ironclaw_test_harness::skipped;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vm::runs;

/// The SDKs that have to work: the newest one, and one of the first that know `E2B_SANDBOX_URL`, with the older API.
/// Those of the first major version know a domain alone.
const NEWEST: &str = "e2b";
const OLD: [&str; 1] = ["e2b==2.10.0"];

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

/// A daemon of its own.
struct Daemon {
    apart: Apart,
    state: TempDir,
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start() -> Self {
        let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self::start_in(with_snapshot(), state)
    }

    fn start_in(apart: Apart, state: TempDir) -> Self {
        Self::start_by(apart, state, |command| command)
    }

    /// Starts one by a command that runs the daemon's.
    fn start_by(apart: Apart, state: TempDir, command_of: impl FnOnce(Command) -> Command) -> Self {
        let socket = state.path().join("socket");
        let mut command = apart.ironclaw(&["--json", "serve", "--listen", "127.0.0.1:0"]);
        command.arg("--state").arg(state.path());
        command.arg("--socket").arg(&socket);
        // A first boot may take longer than a client waits.
        command
            .args(["--warm", "base"])
            .env("IRONCLAW_POOL_SIZE", "1");
        let mut command = command_of(command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // Ends with the daemon, too.
        while serde_json::from_str::<serde_json::Value>(&told).is_err() {
            let count = stdout.read_line(&mut told).unwrap();
            assert!(count > 0, "the daemon has ended: {told}");
        }
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let address = told["address"].as_str().unwrap().parse().unwrap();
        Self {
            apart,
            state,
            child,
            address,
        }
    }

    fn key(&self, task: &[&str]) -> Output {
        let mut command = self.apart.ironclaw(&["key"]);
        command.args(task).arg("--state").arg(self.state.path());
        command.output().unwrap()
    }

    fn new_key(&self, name: &str) -> String {
        let made = self.key(&["create", name]);
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    /// Runs a script with an SDK; returns what it printed.
    fn script(&self, python: &Path, script: &str, key: &str, arguments: &[&str]) -> String {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2b");
        let mut command = Command::new(python);
        command.arg(scripts.join(script)).args(arguments);
        self.run(&mut command, key)
    }

    /// Runs a program with an SDK; returns what it printed.
    fn run(&self, command: &mut Command, key: &str) -> String {
        let url = format!("http://{}", self.address);
        let output = command
            .env("E2B_API_KEY", key)
            .env("E2B_API_URL", &url)
            .env("E2B_SANDBOX_URL", &url)
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{out}\n{err}");
        out
    }

    /// Ends the daemon in order; returns what it had.
    fn end(mut self) -> (Apart, TempDir) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(
            self.apart.processes().is_empty(),
            "VMs outlive their daemon"
        );
        self.parts()
    }

    /// Kills it; returns what it had.
    fn kill(mut self) -> (Apart, TempDir) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.parts()
    }

    fn parts(mut self) -> (Apart, TempDir) {
        let apart = std::mem::replace(&mut self.apart, Apart::new());
        let empty = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let state = std::mem::replace(&mut self.state, empty);
        (apart, state)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns directories with a snapshot for a daemon, copied from one that is kept between runs: a boot takes
/// seconds.
fn with_snapshot() -> Apart {
    let apart = Apart::new();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kept = home.join("e2b-snapshots");
    let turn = File::create(home.join("e2b-snapshots.lock")).unwrap();
    flock(&turn, FlockOperation::LockExclusive).unwrap();
    // Makes what is missing, and replaces what another build has made.
    let mut make = apart.ironclaw(&["run", "--", "true"]);
    make.env("IRONCLAW_SNAPSHOT_PATH", &kept);
    let made = make.env("IRONCLAW_POOL_SIZE", "1").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).arg(&kept);
    let copied = copy.arg(apart.snapshots()).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    apart
}

/// Returns a Python with an SDK of E2B; ignores the test if there is none to be had.
fn python(sdk: &str) -> Option<PathBuf> {
    let name: String = sdk
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("python")
        .join(name);
    let python = home.join("bin/python");
    let has_it = |python: &Path| {
        let import = Command::new(python).args(["-c", "import e2b"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    if has_it(&python) {
        return Some(python);
    }
    let base = ["python3.13", "python3.12", "python3.11", "python3"]
        .into_iter()
        .find(|name| {
            let version = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
            let found = Command::new(name).args(["-c", version]).output();
            found.is_ok_and(|output| output.status.success())
        });
    let Some(base) = base else {
        skipped("there is no Python from 3.11 on with venv (apt-get install python3-venv)");
        return None;
    };
    let made = Command::new(base)
        .arg("-m")
        .arg("venv")
        .arg(&home)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        sdk,
    ]);
    let installed = install.output().unwrap();
    if !installed.status.success() {
        let reason = String::from_utf8_lossy(&installed.stderr).into_owned();
        let reason = reason.lines().last().unwrap_or_default();
        skipped(format!("{sdk} can't be installed: {reason}"));
        return None;
    }
    Some(python)
}

/// Sends a request, and returns the answer with its head.
fn ask(mut stream: impl std::io::Read + std::io::Write, head: &str) -> String {
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_newest_sdk_works_unmodified() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let said = daemon.script(&python, "calls.py", &key, &[]);
    assert!(said.ends_with("all calls are served\n"), "{said}");
    let said = daemon.script(&python, "async_calls.py", &key, &[]);
    assert!(said.ends_with("all calls are served\n"), "{said}");
    daemon.end();
}

#[test]
fn sdks_of_older_apis_work_unmodified() {
    if !runs() {
        return;
    }
    let sdks: Vec<_> = OLD.iter().map_while(|sdk| python(sdk)).collect();
    if sdks.len() < OLD.len() {
        return;
    }
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    for python in sdks {
        let said = daemon.script(&python, "old_calls.py", &key, &[]);
        assert!(said.ends_with("all calls are served\n"), "{said}");
    }
    daemon.end();
}

#[test]
fn sandboxes_go_on_in_the_next_daemon_and_after_a_kill_what_was_paused_is_there() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let ids = daemon.script(&python, "leave_sandboxes.py", &key, &[]);
    let ids: Vec<_> = ids.split_whitespace().collect();
    let [running, paused] = ids[..] else {
        panic!("{ids:?}")
    };
    let (apart, state) = daemon.end();
    let daemon = Daemon::start_in(apart, state);
    daemon.script(
        &python,
        "find_sandboxes.py",
        &key,
        &["running", running, "paused", paused],
    );
    let (apart, state) = daemon.kill();
    let daemon = Daemon::start_in(apart, state);
    daemon.script(
        &python,
        "find_sandboxes.py",
        &key,
        &["gone", running, "paused", paused],
    );
    daemon.end();
}

#[test]
fn nobody_gets_in_without_a_key_but_who_may_open_the_socket() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let list = "GET /v2/sandboxes HTTP/1.1\r\nHost: localhost";
    let tcp = || TcpStream::connect(daemon.address).unwrap();
    let refused = ask(tcp(), list);
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert!(refused.contains(r#""code":401"#), "{refused}");
    let unix = UnixStream::connect(daemon.state.path().join("socket")).unwrap();
    assert!(ask(unix, list).starts_with("HTTP/1.1 200 "));
    let key = daemon.new_key("one");
    let with_key = format!("{list}\r\nX-API-Key: {key}");
    assert!(ask(tcp(), &with_key).starts_with("HTTP/1.1 200 "));
    assert!(daemon.key(&["revoke", "one"]).status.success());
    assert!(ask(tcp(), &with_key).starts_with("HTTP/1.1 401 "));
    assert_eq!(daemon.key(&["revoke", "one"]).status.code(), Some(1));
    // Whatever is asked, the answer is JSON.
    let unknown = ask(tcp(), "GET /nothing HTTP/1.1\r\nHost: localhost");
    assert!(unknown.contains(r#""code":404"#), "{unknown}");
    let health = ask(tcp(), "GET /health HTTP/1.1\r\nHost: localhost");
    assert!(health.starts_with("HTTP/1.1 204 "), "{health}");
    daemon.end();
}

#[test]
fn a_daemon_takes_no_address_that_others_reach_and_no_socket_of_another() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let open = daemon
        .apart
        .ironclaw(&["serve", "--check", "--listen", "0.0.0.0:0"])
        .output();
    let open = open.unwrap();
    assert!(!open.status.success());
    assert!(
        String::from_utf8_lossy(&open.stderr).contains("unencrypted"),
        "{open:?}"
    );
    let mut second = daemon
        .apart
        .ironclaw(&["serve", "--check", "--listen", "127.0.0.1:0"]);
    second.arg("--state").arg(daemon.state.path());
    second
        .arg("--socket")
        .arg(daemon.state.path().join("socket"));
    let second = second.output().unwrap();
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another daemon"),
        "{second:?}"
    );
    let stale = daemon.state.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(fs::exists(&stale).unwrap());
    let mut after = daemon
        .apart
        .ironclaw(&["serve", "--check", "--listen", "127.0.0.1:0"]);
    after
        .arg("--state")
        .arg(daemon.state.path())
        .arg("--socket")
        .arg(&stale);
    assert!(after.output().unwrap().status.success());
    daemon.end();
}
