//! The least that a client of Firecracker can do, to compare ours with: blocking sockets,
//! requests written as they are, no runtime.

use std::any::Any;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::message::{Request, RequestId, ToGuest, ToHost};
use ironclaw_protocol::{VERSION, VSOCK_PORT};

/// Pings before a measurement, so that the guest's working set is in memory.
const PRIMING: u32 = 9;

/// How long Firecracker may take until it listens; it takes milliseconds.
const LISTENS: Duration = Duration::from_secs(10);

const RESUME: &str = "PATCH /vm";
const RESUMED: &str = r#"{"state":"Resumed"}"#;

/// A Firecracker process that restored a clone, running.
pub(crate) struct Bare {
    started: Started,
}

/// A Firecracker process that waits for its first request.
pub(crate) struct Started {
    process: Child,
    api: UnixStream,
    directory: tempfile::TempDir,
}

impl Started {
    pub(crate) fn start(firecracker: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let mut process = Command::new(firecracker)
            .args(["--api-sock", "api.sock", "--level", "Error"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let api = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = process.try_wait().unwrap();
                    assert!(ended.is_none(), "Firecracker ended: {ended:?}");
                    assert!(begun.elapsed() < LISTENS, "{error}");
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        };
        Self {
            process,
            api,
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn load(self, snapshot: &Snapshot) -> Bare {
        self.load_from(snapshot, "File", snapshot.memory())
    }

    /// With the guest's memory from what is at `path`.
    pub(crate) fn load_from(mut self, snapshot: &Snapshot, backend: &str, path: &Path) -> Bare {
        let body = format!(
            r#"{{"snapshot_path":"{}","mem_backend":{{"backend_type":"{backend}","backend_path":"{}"}},"resume_vm":true,"vsock_override":{{"uds_path":"vsock.sock"}},"clock_realtime":true}}"#,
            snapshot.vmstate().display(),
            path.display(),
        );
        ask(&mut self.api, "PUT /snapshot/load", &body);
        Bare { started: self }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Stops all threads of a VMM that was measured: a guest that runs on would take a processor from
/// what is measured next.
pub(crate) fn stop(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
}

impl Bare {
    /// Reaches its agent, which answers.
    pub(crate) fn ping(&self) {
        Agent::connect(&self.started.directory.path().join("vsock.sock")).ping(0);
    }

    /// See [`stop`].
    pub(crate) fn stop(&self) {
        stop(self.started.process.id());
    }

    /// Primes it as far as a ping goes, and pauses it.
    pub(crate) fn pause(mut self) -> Paused {
        let mut agent = Agent::connect(&self.started.directory.path().join("vsock.sock"));
        for id in 0..PRIMING {
            agent.ping(id);
        }
        ask(&mut self.started.api, "PATCH /vm", r#"{"state":"Paused"}"#);
        Paused { bare: self, agent }
    }
}

/// What processors have done so far for a VMM, its guest included, and for this thread, which is its
/// client (Linux Documentation/scheduler/sched-stats.rst).
pub(crate) fn processor_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let all = tasks.chain([Path::new("/proc/thread-self").to_owned()]);
    all.map(|task| {
        let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
        let nanoseconds = text.split(' ').next().unwrap();
        Duration::from_nanos(nanoseconds.parse().unwrap())
    })
    .sum()
}

/// A clone that waits, paused, with a connection to its agent.
pub(crate) struct Paused {
    bare: Bare,
    agent: Agent,
}

impl Paused {
    /// The threads that run the guest's processors.
    pub(crate) fn vcpus(&self) -> Vec<rustix::thread::Pid> {
        let tasks = format!("/proc/{}/task", self.bare.started.process.id());
        let tasks = std::fs::read_dir(tasks).unwrap().map(Result::unwrap);
        let vcpus = tasks.filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
            name.starts_with("fc_vcpu")
        });
        let number = |name: std::ffi::OsString| name.to_str().unwrap().parse().unwrap();
        let pids = vcpus.map(|task| number(task.file_name()));
        pids.map(|pid: i32| rustix::thread::Pid::from_raw(pid).unwrap())
            .collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.bare.started.process.id()
    }

    /// How long it takes from the request to resume to a ping's answer.
    pub(crate) fn resume_and_ping(mut self) -> (Duration, Box<dyn Any>) {
        let start = Instant::now();
        ask(&mut self.bare.started.api, RESUME, RESUMED);
        self.agent.ping(PRIMING);
        let took = start.elapsed();
        self.bare.stop();
        (took, Box::new(self))
    }

    /// The same of many at once, until the last has answered: all are asked before any is heard.
    pub(crate) fn resume_and_ping_all(mut clones: Vec<Self>) -> (Duration, Box<dyn Any>) {
        let start = Instant::now();
        for clone in &mut clones {
            request(&mut clone.bare.started.api, RESUME, RESUMED);
            clone.agent.send_ping(PRIMING);
        }
        for clone in &mut clones {
            confirm(&mut clone.bare.started.api, RESUME);
            clone.agent.hear(PRIMING);
        }
        let took = start.elapsed();
        clones.iter().for_each(|clone| clone.bare.stop());
        (took, Box::new(clones))
    }
}

fn ask(api: &mut UnixStream, what: &str, body: &str) {
    request(api, what, body);
    confirm(api, what);
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

struct Agent {
    stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .write_all(format!("CONNECT {VSOCK_PORT}\n").as_bytes())
            .unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        let mut hello = MAGIC.to_vec();
        let message = ToGuest::Hello {
            version: VERSION,
            session: 1,
        };
        encode(&message, &mut hello).unwrap();
        stream.write_all(&hello).unwrap();
        Self {
            stream,
            decoder: Decoder::new(),
        }
    }

    fn ping(&mut self, id: u32) {
        self.send_ping(id);
        self.hear(id);
    }

    fn send_ping(&mut self, id: u32) {
        let mut bytes = Vec::new();
        let message = ToGuest::Request {
            id: RequestId(id),
            request: Request::Ping,
        };
        encode(&message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Waits until a ping is answered.
    fn hear(&mut self, id: u32) {
        let mut chunk = [0; 4096];
        loop {
            while let Some(event) = self.decoder.next().unwrap() {
                if let Event::Frame(payload) = event
                    && let ToHost::Done { id: done, .. } = decode(payload).unwrap()
                    && done == RequestId(id)
                {
                    return;
                }
            }
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the guest ended the connection");
            self.decoder.push(&chunk[..read]);
        }
    }
}
