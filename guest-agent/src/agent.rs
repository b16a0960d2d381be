//! The event loop: one thread that waits for everything.
//!
//! A single thread makes reaping safe: no process can be started between the end of one and the
//! lookup of its PID.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::RequestId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use thiserror::Error;

use crate::children;
use crate::commands::{Commands, Pipe};
use crate::fate::Fate;
use crate::link::Link;
use crate::port_search::PortSearch;
use crate::program::Surroundings;
use crate::session::Context;
use crate::system::System;
use crate::transport::Transport;

/// Limit of connections at a time; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 16;

/// Timeout of a guest's last messages, which the host has to read before the guest ends.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);

/// The error after which the agent can't continue.
#[derive(Debug, Error)]
pub(crate) enum AgentError {
    /// It would not learn of its children's ends.
    #[error("watch for the end of child processes")]
    Children(#[source] io::Error),
    /// It would not learn of any event.
    #[error("wait for events")]
    Wait(#[source] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LinkId(u64);

/// The owner of a descriptor in the poll set.
#[derive(Debug, Clone, Copy)]
enum Token {
    Children,
    Devices,
    Listener,
    Line(LinkId),
    Request(LinkId, RequestId),
    Pipe(Pipe),
}

/// The agent with everything that it serves.
pub(crate) struct Agent {
    surroundings: Surroundings,
    system: Box<dyn System>,
    children: UnixStream,
    /// Whether more ended children may have to be reaped.
    unreaped: bool,
    listener: Option<OwnedFd>,
    /// Whether there was no descriptor left for a connection; the next event triggers another
    /// attempt.
    out_of_descriptors: bool,
    search: Option<PortSearch>,
    links: BTreeMap<LinkId, Link>,
    next: u64,
    next_session: u64,
    commands: Commands,
    /// The buffer for all reads.
    buffer: Box<[u8]>,
    shutdown: bool,
}

impl Agent {
    /// Creates an agent that accepts connections from `listener`, which has to be non-blocking, and
    /// that waits for the serial port if `serial` is set.
    pub(crate) fn new(
        surroundings: Surroundings,
        system: Box<dyn System>,
        commands: Commands,
        listener: Option<OwnedFd>,
        serial: bool,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            surroundings,
            system,
            children: children::watch().map_err(AgentError::Children)?,
            unreaped: false,
            listener,
            out_of_descriptors: false,
            search: serial.then(PortSearch::start),
            links: BTreeMap::new(),
            next: 0,
            next_session: 0,
            commands,
            buffer: vec![0; MAX_CHUNK].into_boxed_slice(),
            shutdown: false,
        })
    }

    /// Serves until a host asks to power off.
    pub(crate) fn run(mut self) -> Result<(), AgentError> {
        while !self.shutdown {
            self.look_for_port();
            let events = self.wait()?;
            self.serve(&events);
        }
        self.say_farewell();
        Ok(())
    }

    fn add(&mut self, transport: Transport) {
        self.links.insert(LinkId(self.next), Link::new(transport));
        self.next += 1;
    }

    fn look_for_port(&mut self) {
        if let Some(search) = &mut self.search
            && let Some(port) = search.look(Instant::now())
        {
            self.search = None;
            self.add(Transport::Serial(port));
        }
    }

    fn wait(&mut self) -> Result<Vec<(Token, PollFlags)>, AgentError> {
        let mut set = Vec::new();
        let mut tokens = Vec::new();
        let mut ready = Vec::new();
        let search = self.search.as_ref().and_then(PortSearch::deadline);
        let deadline = search.into_iter().chain(self.commands.deadline()).min();
        let mut add = |fd, flags, token| {
            set.push(PollFd::from_borrowed_fd(fd, flags));
            tokens.push(token);
        };
        add(self.children.as_fd(), PollFlags::IN, Token::Children);
        if let Some(devices) = self.search.as_ref().and_then(PortSearch::devices) {
            add(devices, PollFlags::IN, Token::Devices);
        }
        let connections = self.links.values().filter(|link| !link.is_serial()).count();
        if let Some(listener) = &self.listener
            && connections < MAX_CONNECTIONS
            && !self.out_of_descriptors
        {
            add(listener.as_fd(), PollFlags::IN, Token::Listener);
        }
        for (&id, link) in &self.links {
            let (fd, flags) = link.waits();
            add(fd, flags, Token::Line(id));
            link.waits_of_requests(&mut |fd, flags, request| {
                add(fd, flags, Token::Request(id, request));
            });
        }
        self.commands
            .waits(&mut |fd, flags, pipe| add(fd, flags, Token::Pipe(pipe)));
        self.commands.ready(&mut ready);
        let goes_on = !ready.is_empty() || self.links.values().any(Link::is_ready);
        let now = Instant::now();
        let longest = match deadline {
            _ if self.unreaped || goes_on => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.saturating_duration_since(now)),
            None => None,
        };
        // A timeout too long for the kernel's type is none.
        let timeout = longest.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut set, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => return Ok(Vec::new()),
            Err(error) => return Err(AgentError::Wait(error.into())),
        }
        self.out_of_descriptors = false;
        let events = tokens
            .into_iter()
            .zip(&set)
            .map(|(token, fd)| (token, fd.revents()));
        Ok(events.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn serve(&mut self, events: &[(Token, PollFlags)]) {
        let mut ready = Vec::new();
        if self.unreaped {
            self.reap();
        }
        for &(token, flags) in events {
            match token {
                Token::Children => self.reap(),
                Token::Devices => {
                    if let Some(search) = &mut self.search {
                        search.announced();
                    }
                }
                Token::Listener => self.accept(),
                Token::Line(id) => self.serve_line(id, flags),
                Token::Request(id, request) => {
                    if let Some(link) = self.links.get_mut(&id) {
                        link.serve_request(request, flags);
                    }
                }
                Token::Pipe(pipe) => ready.push(pipe),
            }
        }
        self.commands.ready(&mut ready);
        ready.sort_unstable();
        ready.dedup();
        self.commands.serve(&ready, &mut self.buffer);
        self.commands.expire(Instant::now());
        let mut over = Vec::new();
        for (&id, link) in &mut self.links {
            link.speak(&mut self.commands, &mut self.buffer);
            if link.flush(&mut self.commands) == Fate::Over {
                over.push(id);
            }
        }
        over.into_iter().for_each(|id| self.close(id));
        // Not while a command starts or runs: it would have to wait for the only processor.
        if self.commands.are_idle() {
            self.system.prepare();
        }
    }

    fn reap(&mut self) {
        while matches!(self.children.read(&mut self.buffer), Ok(count) if count > 0) {}
        let reaped = children::reap();
        self.unreaped = reaped.more;
        for (pid, end) in reaped.ended {
            self.commands.ended(pid, end);
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(connection) => self.add(Transport::connection(connection)),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                self.out_of_descriptors = true;
            }
            // The host left before it was accepted.
            Err(_) => {}
        }
    }

    fn serve_line(&mut self, id: LinkId, flags: PollFlags) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let mut context = Context {
            surroundings: &self.surroundings,
            system: self.system.as_mut(),
            commands: &mut self.commands,
            shutdown: &mut self.shutdown,
            next_session: &mut self.next_session,
        };
        if link.serve(flags, &mut self.buffer, &mut context) == Fate::Over {
            self.close(id);
        }
    }

    fn close(&mut self, id: LinkId) {
        if self.links.remove(&id).is_some_and(|link| link.is_serial()) {
            self.search = Some(PortSearch::start());
        }
    }

    /// Writes what is queued, and waits until hosts connected by a socket have read it: a reset
    /// would discard the guest's send queue.
    fn say_farewell(mut self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        loop {
            let (commands, buffer) = (&mut self.commands, &mut self.buffer);
            self.links
                .retain(|_, link| !link.is_delivered(commands, buffer));
            let left = deadline.saturating_duration_since(Instant::now());
            if self.links.is_empty() || left.is_zero() {
                return;
            }
            let mut set = Vec::new();
            for link in self.links.values() {
                let flags = if link.is_flushed() {
                    PollFlags::IN
                } else {
                    PollFlags::OUT
                };
                set.push(PollFd::from_borrowed_fd(link.waits().0, flags));
            }
            let Ok(timeout) = Timespec::try_from(left) else {
                return;
            };
            if poll(&mut set, Some(&timeout)).is_err_and(|error| error != Errno::INTR) {
                return;
            }
        }
    }
}
