//! The QEMU Machine Protocol: JSON lines over a socket (QEMU docs/interop/qmp-spec.rst).
//!
//! Commands are answered in order. They can be sent all at once, before QEMU is ready to read them:
//! that saves a round trip each when a clone is restored.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::coop;

use crate::untrusted;

/// Limit of a line. QEMU's answers to our commands have some hundred bytes; a VMM taken over by its
/// guest could send anything.
const MAX_LINE: usize = 256 * 1024;

/// The reason why a conversation with QEMU ended.
#[derive(Debug)]
pub(super) enum QmpError {
    /// QEMU answered with an error; the conversation can continue.
    Refused {
        command: &'static str,
        message: String,
    },
    /// The socket failed or was closed.
    Io(io::Error),
    /// A line that is not QMP.
    Malformed(String),
}

impl From<io::Error> for QmpError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A message of QEMU, one line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Received {
    Return {
        #[serde(rename = "return")]
        _value: Value,
    },
    Error {
        error: ErrorBody,
    },
    Event(Event),
    Greeting {
        #[serde(rename = "QMP")]
        _greeting: Value,
    },
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    desc: String,
}

/// An event in QEMU.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    #[serde(rename = "event")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) data: Value,
}

/// Our end of the conversation.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
    /// Commands that were sent and not yet answered.
    pending: std::collections::VecDeque<&'static str>,
    events: std::collections::VecDeque<Event>,
}

impl Qmp {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            pending: std::collections::VecDeque::new(),
            events: std::collections::VecDeque::new(),
        }
    }

    /// Starts the conversation; QEMU need not run yet.
    pub(super) async fn begin(&mut self) -> Result<(), QmpError> {
        self.send("qmp_capabilities", json!({})).await
    }

    /// Returns the PID of the sender of the first message, without consuming the message.
    pub(super) async fn speaker(&self) -> io::Result<i32> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let peek = || {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut byte)];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let message = recvmsg(&self.stream, into, &mut control, flags)?;
            let pid = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(from) => Some(from.pid.as_raw_nonzero().get()),
                _ => None,
            });
            match pid {
                Some(pid) if message.bytes > 0 => Ok(pid),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        self.stream.async_io(Interest::READABLE, peek).await
    }

    /// Sends a command without waiting for its answer.
    pub(super) async fn send(
        &mut self,
        command: &'static str,
        arguments: Value,
    ) -> Result<(), QmpError> {
        let line = command_line(command, &arguments);
        self.pending.push_back(command);
        self.write(line.as_bytes()).await?;
        Ok(())
    }

    /// Waits until all commands are answered.
    ///
    /// Returns the first refusal as the error; reads the answers behind it nevertheless, so that
    /// the conversation stays in step.
    pub(super) async fn settle(&mut self) -> Result<(), QmpError> {
        let mut refused = None;
        while !self.pending.is_empty() {
            match self.read_answer().await {
                Err(refusal @ QmpError::Refused { .. }) => {
                    refused.get_or_insert(refusal);
                }
                other => other?,
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
    ) -> Result<(), QmpError> {
        self.send(command, arguments).await?;
        self.settle().await
    }

    /// Sends QEMU a copy of `fd`, which later commands refer to as `name`.
    pub(super) async fn pass_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        let line = command_line("getfd", &json!({ "fdname": name }));
        self.pending.push_back("getfd");
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let fds = [fd];
                let mut space =
                    [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                let message = [IoSlice::new(line.as_bytes())];
                let socket = self.stream.as_fd();
                Ok(rustix::net::sendmsg(
                    socket,
                    &message,
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?)
            })
            .await?;
        // The descriptor was sent with the first byte; the rest of the line is plain data.
        self.write(&line.as_bytes()[sent..]).await?;
        self.settle().await
    }

    /// Waits for an event for which `wanted` returns a value.
    pub(super) async fn event<T>(
        &mut self,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, QmpError> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if let Some(found) = wanted(&event) {
                    return Ok(found);
                }
            }
            match self.read_line().await? {
                Received::Event(event) => self.events.push_back(event),
                other => return Err(QmpError::Malformed(format!("{other:?} without a command"))),
            }
        }
    }

    async fn read_answer(&mut self) -> Result<(), QmpError> {
        loop {
            let line = self.read_line().await?;
            match line {
                Received::Greeting { .. } => {}
                Received::Event(event) => self.keep(event),
                Received::Return { .. } | Received::Error { .. } => {
                    let command = self.pending.pop_front().unwrap_or("nothing");
                    return match line {
                        Received::Error { error } => Err(QmpError::Refused {
                            command,
                            message: untrusted::message(&error.desc),
                        }),
                        _ => Ok(()),
                    };
                }
            }
        }
    }

    /// Keeps migration events, the only ones that are ever waited for. Drops the others, so that no
    /// guest can fill our memory by causing events.
    fn keep(&mut self, event: Event) {
        if event.name == "MIGRATION" && self.events.len() < 64 {
            self.events.push_back(event);
        }
    }

    async fn read_line(&mut self) -> Result<Received, QmpError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line = serde_json::from_slice(&self.received[..end]);
                let line = line
                    .map_err(|error| QmpError::Malformed(untrusted::message(&error.to_string())));
                self.received.drain(..=end);
                return line;
            }
            if self.received.len() > MAX_LINE {
                return Err(QmpError::Malformed(format!(
                    "a line of over {MAX_LINE} bytes"
                )));
            }
            // A socket that always has data would never yield to other tasks, nor to the caller's
            // timeout.
            coop::consume_budget().await;
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // Tries before it waits: a command is far smaller than the socket's buffer.
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn command_line(command: &str, arguments: &Value) -> String {
    let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
    line.push('\n');
    line
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
/// Runs a conversation with a peer that has sent everything already.
pub(crate) async fn fuzz(stream: UnixStream) {
    let mut qmp = Qmp::new(stream);
    if qmp.begin().await.is_err() {
        return;
    }
    let _ = qmp.speaker().await;
    let status = |event: &Event| {
        let status = event.data.get("status")?.as_str()?;
        (event.name == "MIGRATION").then(|| status.to_owned())
    };
    for _ in 0..3 {
        // A refusal lets the conversation continue, as in a restore; other errors end it.
        match qmp.settle().await {
            Ok(()) => {}
            Err(QmpError::Refused { message, .. }) => {
                assert_eq!(message, untrusted::message(&message));
            }
            Err(_) => return,
        }
        if qmp.send("cont", json!({})).await.is_err() {
            return;
        }
    }
    while qmp.event(status).await.is_ok() {}
}

#[cfg(test)]
mod tests;
