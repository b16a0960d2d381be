//! A minimal client of Firecracker, with literal requests.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_orchestrator::vm::snapshot::Snapshot;

/// Timeout of a process's start, and of loading a snapshot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of attempts to connect, for which there is no event.
const CONNECT_PAUSE: Duration = Duration::from_micros(200);

/// A process, killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts `firecracker`, loads `snapshot` and runs it, kills it, and waits for its end.
pub(super) fn cycle(firecracker: &Path, snapshot: &Snapshot) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let process = Command::new(firecracker)
        .args(["--api-sock", "api.sock", "--level", "Error"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("can't start {}", firecracker.display()))?;
    let mut process = Process(process);
    let mut api = connect(&mut process, &directory.path().join("api.sock"))?;
    let body = format!(
        r#"{{"snapshot_path":"{}","mem_backend":{{"backend_type":"File","backend_path":"{}"}},"resume_vm":true,"vsock_override":{{"uds_path":"vsock.sock"}},"clock_realtime":true}}"#,
        snapshot.vmstate().display(),
        snapshot.memory().display(),
    );
    let length = body.len();
    write!(
        api,
        "PUT /snapshot/load HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = [0; 4096];
    let read = api.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..read]);
    ensure!(answer.starts_with("HTTP/1.1 204"), "Firecracker: {answer}");
    Ok(())
}

fn connect(process: &mut Process, socket: &Path) -> Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) if is_early(&error) => {
                let ended = process.0.try_wait()?;
                ensure!(ended.is_none(), "Firecracker ended: {ended:?}");
                ensure!(begun.elapsed() < ANSWER_TIMEOUT, "Firecracker: {error}");
                sleep(CONNECT_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns whether nobody listens yet.
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
