//! Tests where the daemon listens, what it counts and what it records.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ironclaw_test_harness::skipped;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Daemon;
use crate::apart::Apart;
use crate::vm::runs;

/// Runs curl; `None` if it is not installed, which ignores the test.
fn curl(arguments: &[&str]) -> Option<Output> {
    match Command::new("curl").arg("-sS").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skipped(format!("there is no curl: {error}"));
            None
        }
    }
}

/// Waits for what a daemon prints when it listens.
fn listening(child: &mut std::process::Child) -> Value {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let found = stdout.lines().find_map(|line| {
        let value: Value = serde_json::from_str(&line.unwrap()).ok()?;
        value.get("addresses").is_some().then_some(value)
    });
    found.unwrap_or_else(|| panic!("the daemon has ended"))
}

fn end(mut child: std::process::Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_address_that_others_reach_is_served_encrypted() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-keyout", &key, "-out", &cert])
        .output();
    if made.as_ref().is_ok_and(|made| !made.status.success()) || made.is_err() {
        return skipped("openssl makes no certificate");
    }
    let apart = Apart::new();
    let arguments = [
        "--json",
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ];
    let mut serve = apart.ironclaw(&arguments);
    let mut child = serve.stdout(Stdio::piped()).spawn().unwrap();
    let told = listening(&mut child);
    let port = told["address"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let url = format!("https://localhost:{port}/v1/health");
    let answer = curl(&["--cacert", &cert, &url]);
    let plain = curl(&[&format!("http://localhost:{port}/v1/health")]);
    end(child);
    let (Some(answer), Some(plain)) = (answer, plain) else {
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        r#"{"status":"ok"}"#,
        "{answer:?}"
    );
    assert!(!plain.status.success(), "{plain:?}");
    // A key of another certificate, or none, is said to be that.
    let mut wrong = apart.ironclaw(&["serve", "--check", "--listen", "0.0.0.0:0"]);
    let wrong = wrong
        .args(["--tls-cert", &cert, "--tls-key", &cert])
        .output()
        .unwrap();
    assert!(!wrong.status.success());
    assert!(
        String::from_utf8_lossy(&wrong.stderr).contains("cert.pem"),
        "{wrong:?}"
    );
}

#[test]
fn a_daemon_listens_on_the_socket_that_a_service_manager_passes() {
    let script = "
import os, socket, sys
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen()
print(s.getsockname()[1], flush=True)
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
";
    let apart = Apart::new();
    let ironclaw = apart.ironclaw(&["--json", "serve"]);
    let mut python = Command::new("python3");
    python
        .args(["-c", script])
        .arg(ironclaw.get_program())
        .args(ironclaw.get_args());
    for (name, value) in ironclaw.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let mut child = match python.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return skipped(format!("there is no python3: {error}")),
    };
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut port = String::new();
    stdout.read_line(&mut port).unwrap();
    let address = format!("127.0.0.1:{}", port.trim());
    let mut told = String::new();
    stdout.read_line(&mut told).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["addresses"], serde_json::json!([address]));
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    end(child);
}

#[test]
fn a_group_may_open_the_socket_if_it_is_named() {
    use std::os::unix::fs::MetadataExt as _;
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("socket");
    let apart = Apart::new();
    // Our own, which everybody may give a file to.
    let group = fs::metadata(home.path()).unwrap().gid();
    let mut serve = apart.ironclaw(&["--json", "serve", "--listen", "127.0.0.1:0"]);
    serve
        .arg("--socket")
        .arg(&socket)
        .args(["--group", &group.to_string()]);
    let mut child = serve.stdout(Stdio::piped()).spawn().unwrap();
    listening(&mut child);
    let found = fs::metadata(&socket).unwrap();
    assert_eq!((found.mode() & 0o777, found.gid()), (0o660, group));
    end(child);
    assert!(!socket.exists());
    let unknown = [
        "serve",
        "--check",
        "--listen",
        "127.0.0.1:0",
        "--group",
        "no such group",
    ];
    let mut unknown = apart.ironclaw(&unknown);
    let unknown = unknown.arg("--socket").arg(&socket).output().unwrap();
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("no group"),
        "{unknown:?}"
    );
}

/// Asks over the socket; returns the answer with its head.
fn ask(socket: &Path, call: &str, body: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{call} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    std::io::read_to_string(stream).unwrap()
}

#[test]
fn requests_are_counted_and_recorded_without_secrets() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let socket = daemon.state.path().join("socket");
    let made = ask(
        &socket,
        "POST /v1/sandboxes",
        r#"{"env":{"SECRET":"do-not-tell"}}"#,
    );
    let made: Value = serde_json::from_str(made.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let id = made["id"].as_str().unwrap();
    let exec = format!("POST /v1/sandboxes/{id}/exec");
    ask(&socket, &exec, r#"{"argv":["echo","do-not-tell"]}"#);
    ask(&socket, "GET /v1/sandboxes/none", "");
    ask(&socket, "GET /sandboxes/none", "");
    let text = ask(&socket, "GET /metrics", "");
    let (head, text) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        r#"ironclaw_http_requests_total{route="/v1/sandboxes/{id}/exec",method="POST",status="200"} 1"#,
        r#"ironclaw_http_failures_total{route="/v1/sandboxes/{id}",kind="not_found"} 1"#,
        r#"ironclaw_http_failures_total{route="/sandboxes/{id}",kind="404"} 1"#,
        r#"ironclaw_sandboxes{state="running"} 1"#,
        "ironclaw_pool_spawns_total{",
    ] {
        assert!(
            text.lines().any(|told| told.starts_with(line)),
            "{line} is not in:\n{text}"
        );
    }
    // Who has no key is told nothing.
    let mut stream = std::net::TcpStream::connect(daemon.address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    assert!(
        std::io::read_to_string(stream)
            .unwrap()
            .starts_with("HTTP/1.1 401 ")
    );

    let log = fs::read_to_string(daemon.state.path().join("audit.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |route: &str| {
        let found = lines.iter().find(|line| line["route"] == route);
        found.unwrap_or_else(|| panic!("{route} is not in {log}"))
    };
    let create = told("/v1/sandboxes");
    assert_eq!(
        (&create["by"], &create["sandbox"]),
        (&"local".into(), &id.into())
    );
    let exec = told("/v1/sandboxes/{id}/exec");
    assert_eq!(
        (&exec["sandbox"], &exec["status"]),
        (&id.into(), &200.into())
    );
    assert!(
        !log.contains("do-not-tell") && !log.contains("/metrics"),
        "{log}"
    );
    let text = text.to_owned();
    daemon.end();
    check_by_promtool(&text);
}

/// Has Prometheus's own program look at figures, if it is installed.
fn check_by_promtool(text: &str) {
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = match promtool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => return skipped(format!("promtool did not look at the figures: {error}")),
    };
    let mut stdin = child.stdin.take().unwrap();
    // The answer is in chunks: their sizes are lines of their own.
    let is_size =
        |line: &str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lines = text.split("\r\n").filter(|line| !is_size(line));
    stdin
        .write_all(lines.collect::<String>().as_bytes())
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
