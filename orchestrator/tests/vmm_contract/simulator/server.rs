//! The process: one thread that waits for the API, the host's connections to the guest, and timers.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

use ironclaw_protocol::frame::MAGIC;
use ironclaw_testguest::session::Session;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::fault::die;
use super::http::{self, Answer};
use super::instance::{After, Configuration, Handshake, Instance};
use super::{CONNECT, Fault, GUEST, Simulator, api};

/// Interval at which an idle guest looks at the clock, in nanoseconds.
const CLOCK_INTERVAL: i64 = 2_000_000;

/// A connection of the host to the guest.
enum Line {
    Asking(UnixStream, Handshake),
    Wanted(UnixStream),
    Open(UnixStream, Session),
}

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

/// Serves the API at `socket` until the guest or the host ends it.
pub(super) fn serve(simulator: &Simulator, version: &str, socket: &Path) -> ExitCode {
    let listener = match UnixListener::bind(socket) {
        Ok(listener) => listener,
        Err(error) => {
            println!(
                "Failed to open the API socket at {}: {error}",
                socket.display()
            );
            return ExitCode::FAILURE;
        }
    };
    listener.set_nonblocking(true).unwrap();
    let mut instance = Instance::NotStarted(Configuration::default());
    let mut clients: Vec<Client> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    loop {
        wait(&listener, &instance, &clients, &lines);
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            let received = Vec::new();
            clients.push(Client { stream, received });
        }
        let mut exit = None;
        clients.retain_mut(|client| {
            let kept = converse(client, simulator, version, &mut instance);
            match kept {
                Ok(After::Goes) => true,
                Ok(After::Disconnects) => {
                    lines.clear();
                    if let Instance::Started(machine) = &mut instance {
                        machine.guest.lose_sessions();
                    }
                    true
                }
                Ok(After::Exits(code)) => {
                    exit = Some(code);
                    true
                }
                Ok(After::Dies) => die(),
                Err(()) => false,
            }
        });
        if let Some(code) = exit {
            return ExitCode::from(code);
        }
        if let Instance::Started(machine) = &mut instance {
            if let Some(listener) = &machine.listener {
                listener.set_nonblocking(true).unwrap();
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    lines.push(Line::Asking(stream, Handshake::new()));
                }
            }
            if machine.running && machine.lost_its_memory() {
                die();
            }
            let (running, guest) = (machine.running, &mut machine.guest);
            if running {
                guest.work();
            }
            lines = std::mem::take(&mut lines)
                .into_iter()
                .filter_map(|line| line.work(simulator, running, guest))
                .collect();
            if guest.is_off() {
                return ExitCode::SUCCESS;
            }
        }
    }
}

fn wait(listener: &UnixListener, instance: &Instance, clients: &[Client], lines: &[Line]) {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(
        clients
            .iter()
            .map(|client| PollFd::new(&client.stream, PollFlags::IN)),
    );
    let mut running = false;
    if let Instance::Started(machine) = instance {
        running = machine.running;
        if let Some(listener) = &machine.listener {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        if running {
            let stream = |line: &'_ Line| match line {
                Line::Asking(stream, _) | Line::Wanted(stream) | Line::Open(stream, _) => {
                    stream.as_fd().try_clone_to_owned().unwrap()
                }
            };
            let streams: Vec<_> = lines.iter().map(stream).collect();
            let mut all = fds;
            all.extend(streams.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            let tick = Timespec {
                tv_sec: 0,
                tv_nsec: CLOCK_INTERVAL,
            };
            let _ = poll(&mut all, Some(&tick));
            return;
        }
    }
    debug_assert!(!running);
    let _ = poll(&mut fds, None);
}

/// Answers the requests on a connection of the API; an error ends it.
fn converse(
    client: &mut Client,
    simulator: &Simulator,
    version: &str,
    instance: &mut Instance,
) -> Result<After, ()> {
    let mut chunk = [0; 4096];
    loop {
        match client.stream.read(&mut chunk) {
            Ok(0) => return Err(()),
            Ok(count) => client.received.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return Err(()),
        }
    }
    let Some(request) = http::take(&mut client.received).map_err(|_| ())? else {
        return Ok(After::Goes);
    };
    let fault = simulator.strike(&call(&request));
    client.stream.set_nonblocking(false).map_err(|_| ())?;
    let (answer, after) = match &fault {
        Some(Fault::Refuse(message)) => (Answer::Fault(message.clone()), After::Goes),
        _ => {
            let parsed = semver::Version::parse(version).map_err(|_| ())?;
            match api::parse(&request.method, &request.path, &request.body, &parsed) {
                Ok(request) => instance.perform(request, version),
                Err(message) => (Answer::Fault(message), After::Goes),
            }
        }
    };
    let bytes = match &fault {
        Some(fault) => answer.broken(fault),
        None => answer.bytes(),
    };
    let sent = client.stream.write_all(&bytes);
    match fault {
        Some(Fault::DieAfterAnswer) => die(),
        Some(Fault::Truncate) => return Err(()),
        _ => {}
    }
    sent.map_err(|_| ())?;
    client.stream.set_nonblocking(true).map_err(|_| ())?;
    Ok(after)
}

/// Returns the name of a request in planned faults.
fn call(request: &http::Request) -> String {
    let http::Request { method, path, body } = request;
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match body.get("state").and_then(serde_json::Value::as_str) {
        Some(state) => format!("{method} {path} {state}"),
        None => format!("{method} {path}"),
    }
}

impl Line {
    /// Moves data in both directions; `None` ends the connection. A paused guest neither hears nor
    /// answers.
    fn work(
        self,
        simulator: &Simulator,
        running: bool,
        guest: &mut super::guest::Running,
    ) -> Option<Self> {
        match self {
            Self::Asking(mut stream, mut handshake) => match handshake.read(&mut stream) {
                Ok(Some(true)) => Self::Wanted(stream).work(simulator, running, guest),
                Ok(Some(false)) => None,
                Ok(None) => Some(Self::Asking(stream, handshake)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    Some(Self::Asking(stream, handshake))
                }
                Err(_) => None,
            },
            Self::Wanted(mut stream) if running => {
                let answer = match simulator.strike(CONNECT) {
                    None => None,
                    Some(Fault::DieAfterAnswer) => {
                        Handshake::accept(&mut stream).ok()?;
                        die();
                    }
                    Some(Fault::Truncate) => Some(&b"OK 10"[..]),
                    Some(Fault::Garbage) => Some(&b"\xff\xfe\n"[..]),
                    Some(Fault::Endless) => Some(&[b'9'; 4096][..]),
                    // Hangs up, as when nobody listens.
                    Some(_) => Some(&[][..]),
                };
                if let Some(broken) = answer {
                    let _ = stream.write_all(broken);
                    return None;
                }
                Handshake::accept(&mut stream).ok()?;
                Self::Open(stream, Session::new()).work(simulator, running, guest)
            }
            Self::Open(mut stream, mut session) if running => {
                if converse_with_guest(&mut stream, &mut session, simulator, guest).is_some() {
                    return Some(Self::Open(stream, session));
                }
                guest.close(&mut session);
                None
            }
            paused => Some(paused),
        }
    }
}

/// Moves what can be moved between the host and a session of the guest; nothing ends it.
fn converse_with_guest(
    stream: &mut UnixStream,
    session: &mut Session,
    simulator: &Simulator,
    guest: &mut super::guest::Running,
) -> Option<()> {
    let mut chunk = [0; 16 * 1024];
    while !session.is_congested() {
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(count) => session.receive(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    guest.pump(session);
    if !session.output().is_empty() && simulator.strike(GUEST) == Some(Fault::Oversized) {
        let begins = session.output().starts_with(&MAGIC);
        let begin = if begins { &MAGIC[..] } else { &[] };
        stream
            .write_all(&[begin, &u32::MAX.to_le_bytes(), &[0; 4096]].concat())
            .ok()?;
        session.sent(session.output().len());
    }
    while !session.output().is_empty() {
        match stream.write(session.output()) {
            Ok(count) => session.sent(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
        guest.pump(session);
    }
    (!session.is_over() || !session.output().is_empty()).then_some(())
}
