//! A host with blocking I/O, and an agent for it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{
    Exec, ExecId, Failure, Inherited, Outcome, Request, RequestId, Stderr, Stream, ToGuest, ToHost,
};

/// Timeout of answers that should come at once.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A running agent; killed at the end of the test.
pub(crate) struct Agent {
    pub(crate) process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_ironclaw-guest-agent"))
            .arg("--listen")
            .arg(directory.path().join("socket"))
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Self { process, directory }
    }

    /// Returns a path in a directory of this agent's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn connect(&self) -> Line {
        let stream = UnixStream::connect(self.path("socket")).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Line {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// Opens a connection with a session on it.
    pub(crate) fn host(&self) -> Host {
        let mut line = self.connect();
        line.open(1);
        Host {
            line,
            next: 0,
            taken: HashMap::new(),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An arrival on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Opened,
    Message(ToHost),
    Closed,
}

/// A connection that may violate the protocol.
pub(crate) struct Line {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
}

impl Line {
    pub(crate) fn send(&mut self, message: &ToGuest) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn arrival(&mut self) -> Arrival {
        loop {
            if let Some(event) = self.decoder.next().unwrap() {
                return match event {
                    Event::Opened => Arrival::Opened,
                    Event::Frame(payload) => {
                        let message: ToHost = decode(payload).unwrap();
                        message.validate().unwrap();
                        Arrival::Message(message)
                    }
                };
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Arrival::Closed,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Arrival::Closed;
                }
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    pub(crate) fn message(&mut self) -> ToHost {
        match self.arrival() {
            Arrival::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    /// Starts a session and checks that the agent is in it.
    pub(crate) fn open(&mut self, session: u64) {
        let mut bytes = MAGIC.to_vec();
        encode(
            &ToGuest::Hello {
                version: VERSION,
                session,
            },
            &mut bytes,
        )
        .unwrap();
        self.stream.write_all(&bytes).unwrap();
        while self.arrival() != Arrival::Opened {}
        let ToHost::Hello {
            version,
            session: answered,
            agent,
        } = self.message()
        else {
            panic!("not a Hello");
        };
        assert_eq!((version, answered), (VERSION, session));
        assert!(agent.starts_with("ironclaw-guest-agent "), "{agent}");
    }

    /// Reads up to the `Fault` and the end of the connection.
    pub(crate) fn fault(&mut self) -> String {
        loop {
            match self.arrival() {
                Arrival::Message(ToHost::Fault { reason }) => {
                    assert_eq!(self.arrival(), Arrival::Closed);
                    return reason;
                }
                Arrival::Closed => panic!("closed without a word"),
                _ => {}
            }
        }
    }
}

/// The outcome of a request, and its output.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) file: Vec<u8>,
    pub(crate) outcome: Outcome,
}

impl Finished {
    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }

    pub(crate) fn failure(self) -> Failure {
        match self.outcome {
            Outcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

/// A host that follows the protocol.
pub(crate) struct Host {
    pub(crate) line: Line,
    next: u32,
    /// The offsets of outputs.
    taken: HashMap<(RequestId, Stream), u64>,
}

impl Host {
    pub(crate) fn start(&mut self, request: Request) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        self.line.send(&ToGuest::Request { id, request });
        id
    }

    /// Tells the agent that so many more bytes were taken.
    pub(crate) fn took(&mut self, id: RequestId, stream: Stream, bytes: usize) {
        let taken = self.taken.entry((id, stream)).or_default();
        *taken += bytes as u64;
        let offset = *taken;
        self.line.send(&ToGuest::Taken { id, stream, offset });
    }

    /// Runs a request to its end, with credit for all output.
    pub(crate) fn run(&mut self, request: Request) -> Finished {
        let id = self.start(request);
        self.finish(id, &[])
    }

    pub(crate) fn shell(&mut self, script: &str) -> Finished {
        self.run(Request::Exec(shell(script)))
    }

    pub(crate) fn ping(&mut self) {
        let id = self.start(Request::Ping);
        let answer = self.line.message();
        assert_eq!(
            answer,
            ToHost::Done {
                id,
                outcome: Outcome::Pong
            }
        );
    }

    /// Sends `content` within the credit, then its end, and takes all output. Without content,
    /// sends no end either.
    pub(crate) fn finish(&mut self, id: RequestId, content: &[u8]) -> Finished {
        let outcome = Outcome::Pong;
        let mut finished = Finished {
            stdout: Vec::new(),
            stderr: Vec::new(),
            file: Vec::new(),
            outcome,
        };
        let mut left = content;
        let mut credit = WINDOW as usize;
        let mut eof = content.is_empty();
        loop {
            while credit > 0 && !left.is_empty() {
                let (now, later) = left.split_at(left.len().min(credit).min(MAX_CHUNK));
                self.line.send(&ToGuest::Data {
                    id,
                    bytes: now.to_vec(),
                });
                (left, credit) = (later, credit - now.len());
            }
            if left.is_empty() && !eof {
                self.line.send(&ToGuest::Eof { id });
                eof = true;
            }
            match self.line.message() {
                ToHost::Data {
                    id: from,
                    stream,
                    bytes,
                } if from == id => {
                    self.took(id, stream, bytes.len());
                    match stream {
                        Stream::Stdout => finished.stdout.extend(bytes),
                        Stream::Stderr => finished.stderr.extend(bytes),
                        Stream::File => finished.file.extend(bytes),
                    }
                }
                ToHost::Credit { id: of, bytes } if of == id => credit += bytes as usize,
                ToHost::Opened { id: of } | ToHost::Eof { id: of } if of == id => {}
                ToHost::Done { id: of, outcome } if of == id => {
                    finished.outcome = outcome;
                    return finished;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the next output of `id`, without granting anything for it.
    pub(crate) fn output(&mut self, id: RequestId) -> Vec<u8> {
        match self.line.message() {
            ToHost::Data {
                id: from, bytes, ..
            } if from == id => bytes,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn exec(argv: &[&str]) -> Exec {
    // Each test has an agent of its own.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Exec {
        id: ExecId(NEXT.fetch_add(1, Ordering::Relaxed)),
        argv: argv.iter().map(|&argument| argument.into()).collect(),
        env: Vec::new(),
        cwd: None,
        stdin: false,
        stderr: Stderr::Apart,
        timeout_ms: None,
        keep: false,
        user: None,
        tag: "".into(),
        terminal: None,
        program: None,
        inherited: Inherited::All,
    }
}

pub(crate) fn shell(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
