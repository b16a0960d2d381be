//! Drives Firecracker by literal requests.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::firecracker::FirecrackerBinary;
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_protocol::VSOCK_PORT;

use super::{Ask, Control, Hold, Running, State, Vmm};

/// Timeout of its start, which takes milliseconds.
const LISTENS: Duration = Duration::from_secs(10);

const STATE: &str = "PATCH /vm";

/// A Firecracker process that waits for its first request.
pub(crate) struct Started {
    process: Vmm,
    api: UnixStream,
    directory: tempfile::TempDir,
    hold: Hold,
}

impl Started {
    pub(crate) fn start(firecracker: &FirecrackerBinary) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let mut process = Command::new(&firecracker.path)
            .args(["--api-sock", "api.sock", "--level", "Error"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map(Vmm)
            .unwrap();
        let begun = Instant::now();
        let api = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = process.0.try_wait().unwrap();
                    assert!(ended.is_none(), "Firecracker ended: {ended:?}");
                    assert!(begun.elapsed() < LISTENS, "{error}");
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        };
        let hold = if firecracker.quirks.hears_after_pause {
            Hold::ByRequest
        } else {
            Hold::BySignal
        };
        Self {
            process,
            api,
            directory,
            hold,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn load(self, snapshot: &Snapshot) -> Running {
        self.put(snapshot, "File", snapshot.memory(), true)
    }

    /// Loads the snapshot with memory from `path`.
    pub(crate) fn load_from(self, snapshot: &Snapshot, backend: &str, path: &Path) -> Running {
        self.put(snapshot, backend, path, true)
    }

    /// Loads the snapshot without resuming its vCPUs.
    pub(crate) fn load_paused(self, snapshot: &Snapshot) -> Running {
        self.put(snapshot, "File", snapshot.memory(), false)
    }

    fn put(mut self, snapshot: &Snapshot, backend: &str, path: &Path, resume: bool) -> Running {
        let body = format!(
            r#"{{"snapshot_path":"{}","mem_backend":{{"backend_type":"{backend}","backend_path":"{}"}},"resume_vm":{resume},"vsock_override":{{"uds_path":"vsock.sock"}},"clock_realtime":true}}"#,
            snapshot.vmstate().display(),
            path.display(),
        );
        request(&mut self.api, "PUT /snapshot/load", &body);
        confirm(&mut self.api, "PUT /snapshot/load");
        let Self {
            process,
            api,
            directory,
            hold,
        } = self;
        Running {
            process,
            hold,
            control: Box::new(Api {
                stream: api,
                directory,
            }),
            ask: Ask::Ping,
        }
    }
}

struct Api {
    stream: UnixStream,
    directory: tempfile::TempDir,
}

impl Control for Api {
    fn request(&mut self, state: State) {
        let body = match state {
            State::Paused => r#"{"state":"Paused"}"#,
            State::Resumed => r#"{"state":"Resumed"}"#,
        };
        request(&mut self.stream, STATE, body);
    }

    fn confirm(&mut self) {
        confirm(&mut self.stream, STATE);
    }

    fn reach_agent(&mut self) -> UnixStream {
        let socket = self.directory.path().join("vsock.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        let connect = format!("CONNECT {VSOCK_PORT}\n");
        stream.write_all(connect.as_bytes()).unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        stream
    }
}

fn request(api: &mut UnixStream, what: &str, body: &str) {
    let length = body.len();
    let text = format!(
        "{what} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n\
         {body}"
    );
    api.write_all(text.as_bytes()).unwrap();
}

fn confirm(api: &mut UnixStream, what: &str) {
    let mut answer = [0; 4096];
    let read = api.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 204"), "{what}: {answer}");
}
