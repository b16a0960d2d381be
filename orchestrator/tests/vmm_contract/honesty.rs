//! Compares the simulator with the real Firecracker: the same requests get the same answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ironclaw_test_harness::skipped;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::limit::Limit;
use crate::real::{self, Real};
use crate::simulator::Simulator;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "honesty::requests_are_legal_in_the_same_states".into(),
            states,
        ),
        trial("honesty::the_same_bodies_are_malformed".into(), bodies),
        trial(
            "honesty::a_failed_load_ends_both_with_the_same_code".into(),
            failed_load,
        ),
    ]
}

/// Timeout of either one's start and of an answer, which take milliseconds.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A process driven by raw requests.
struct Process {
    child: Child,
    stream: BufReader<UnixStream>,
    _limit: Limit,
    _directory: tempfile::TempDir,
}

impl Process {
    fn start(binary: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(binary)
            .args(["--api-sock", "api.sock", "--level", "Error"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let path = directory.path().join("api.sock");
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = child.try_wait().unwrap();
                    assert!(ended.is_none(), "{ended:?}");
                    assert!(start.elapsed() < TIMEOUT, "{error}");
                    // There is no event for a socket that begins to listen.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self {
            _limit: Limit::new(&child),
            child,
            stream: BufReader::new(stream),
            _directory: directory,
        }
    }

    /// Returns the status of the answer to a request.
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> u16 {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut status = None;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let line = line.trim();
            if line.is_empty() {
                break;
            }
            if status.is_none() {
                status = line.split(' ').nth(1).map(|code| code.parse().unwrap());
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the real one and the simulator; `None` if Firecracker or a guest for it is missing.
async fn both() -> Option<([Process; 2], Value, tempfile::TempDir)> {
    let Real { binary, guest } = match real::firecracker().await {
        Ok(real) => real,
        Err(reason) => {
            skipped(reason);
            return None;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let simulator = Simulator::install(directory.path());
    simulator.claim(&binary.version);
    let processes = [
        Process::start(&binary.path),
        Process::start(simulator.binary()),
    ];
    Some((processes, json!(guest), directory))
}

fn same(processes: &mut [Process; 2], method: &str, path: &str, body: &Value) -> u16 {
    let [real, simulated] = processes;
    let expected = real.ask(method, path, body);
    let found = simulated.ask(method, path, body);
    assert_eq!(found, expected, "{method} {path} {body}");
    found
}

async fn states() {
    let Some((mut both, guest, _directory)) = both().await else {
        return;
    };
    let both = &mut both;
    let paused = json!({ "state": "Paused" });
    let resumed = json!({ "state": "Resumed" });
    let start = json!({ "action_type": "InstanceStart" });
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "track_dirty_pages": true });
    let vsock = json!({ "guest_cid": 3, "uds_path": "v.sock" });
    let create = json!({ "snapshot_type": "Full", "snapshot_path": "s", "mem_file_path": "m" });
    let diff = json!({ "snapshot_type": "Diff", "snapshot_path": "d", "mem_file_path": "n" });
    let load = json!({ "snapshot_path": "s",
        "mem_backend": { "backend_type": "File", "backend_path": "m" } });
    for (method, path, body) in [
        ("GET", "/", &Value::Null),
        ("GET", "/version", &Value::Null),
        ("PATCH", "/vm", &paused),
        ("PUT", "/snapshot/create", &create),
        ("PUT", "/actions", &start),
        ("PUT", "/machine-config", &machine),
        (
            "PUT",
            "/boot-source",
            &json!({ "kernel_image_path": "/no/such/kernel" }),
        ),
        (
            "PUT",
            "/boot-source",
            &json!({ "kernel_image_path": guest }),
        ),
        ("PUT", "/vsock", &vsock),
        ("PUT", "/entropy", &json!({})),
        ("PUT", "/snapshot/load", &load),
        ("PUT", "/actions", &start),
        ("PUT", "/actions", &start),
        ("PUT", "/machine-config", &machine),
        ("PUT", "/vsock", &vsock),
        ("PUT", "/snapshot/create", &create),
        ("PUT", "/snapshot/load", &load),
        ("PATCH", "/vm", &resumed),
        ("PATCH", "/vm", &paused),
        ("PATCH", "/vm", &paused),
        ("PUT", "/snapshot/create", &create),
        ("PUT", "/snapshot/create", &diff),
        ("PATCH", "/vm", &resumed),
        ("GET", "/", &Value::Null),
    ] {
        same(both, method, path, body);
    }
}

async fn bodies() {
    let Some((mut both, _, _directory)) = both().await else {
        return;
    };
    let both = &mut both;
    for (method, path, body) in [
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 128, "colour": 1 }),
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 0, "mem_size_mib": 128 }),
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 33, "mem_size_mib": 128 }),
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 0 }),
        ),
        ("PUT", "/vsock", json!({ "guest_cid": 3 })),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 3, "uds_path": "x", "more": true }),
        ),
        ("PUT", "/actions", json!({ "action_type": "Fly" })),
        ("PATCH", "/vm", json!({ "state": "Running" })),
        ("PUT", "/snapshot/create", json!({ "snapshot_path": "s" })),
        ("PUT", "/no/such/resource", json!({})),
        ("DELETE", "/vm", json!({})),
        ("GET", "/nothing", Value::Null),
    ] {
        assert_eq!(
            same(both, method, path, &body),
            400,
            "{method} {path} {body}"
        );
    }
}

async fn failed_load() {
    let Some((mut both, _, _directory)) = both().await else {
        return;
    };
    let load = json!({ "snapshot_path": "missing",
        "mem_backend": { "backend_type": "File", "backend_path": "missing" } });
    assert_eq!(same(&mut both, "PUT", "/snapshot/load", &load), 400);
    let codes = both
        .each_mut()
        .map(|process| process.child.wait().unwrap().code());
    assert_eq!(codes, [Some(1), Some(1)]);
}
