//! A connection of the host to a TCP port of the guest.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ironclaw_protocol::message::{FailureKind, Outcome, RequestId, ToHost};
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_nodelay, socket_error};
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, connect, shutdown, socket_with,
};

use crate::failure::{failed, refused};
use crate::inflow::Inflow;
use crate::outflow::Outflow;
use crate::transfer::Transfer;

/// The guest's own addresses, in the order in which they are tried: a program may listen on either.
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// A connection, from the first attempt to the end of both directions.
#[derive(Debug)]
pub(crate) struct Tunnel {
    id: RequestId,
    port: u16,
    /// Number of the address that is tried, or that answered.
    address: usize,
    socket: File,
    is_connected: bool,
    /// Bytes of the host that the program has not taken, at most a window.
    queue: VecDeque<u8>,
    inflow: Inflow,
    /// Whether the host sends no more.
    host_ended: bool,
    /// Whether the program was told that, or takes no more.
    is_shut: bool,
    /// Whether the program sends no more.
    program_ended: bool,
    /// Whether the last poll, or nothing yet, found it ready.
    readable: bool,
    writable: bool,
    flow: Outflow,
}

impl Tunnel {
    /// Begins to connect.
    pub(crate) fn start(id: RequestId, port: u16) -> Result<Self, Outcome> {
        let mut address = 0;
        let socket = begin(port, &mut address).map_err(|error| of_connect(port, error))?;
        Ok(Self {
            id,
            port,
            address,
            socket,
            is_connected: false,
            queue: VecDeque::new(),
            inflow: Inflow::new(id),
            host_ended: false,
            is_shut: false,
            program_ended: false,
            readable: false,
            writable: false,
            flow: Outflow::new(id),
        })
    }

    /// Finds out how the attempt ended, and makes the next one.
    fn finish_connecting(&mut self, out: &mut Outgoing) -> Result<(), Errno> {
        match socket_error(&self.socket)? {
            Ok(()) => {
                self.is_connected = true;
                // Whoever forwards bytes knows no better than the program when they are due.
                let _ = set_tcp_nodelay(&self.socket, true);
                self.readable = true;
                out.push(&ToHost::Opened { id: self.id });
                Ok(())
            }
            Err(error) => {
                self.address += 1;
                if self.address == ADDRESSES.len() {
                    return Err(error);
                }
                self.writable = false;
                // What the first address answered tells more than that there is no second.
                self.socket = begin(self.port, &mut self.address).map_err(|_| error)?;
                Ok(())
            }
        }
    }

    fn write(&mut self, out: &mut Outgoing) {
        while !self.queue.is_empty() && self.writable && !self.is_shut {
            let (bytes, _) = self.queue.as_slices();
            match self.socket.write(bytes) {
                Ok(count) => {
                    self.queue.drain(..count);
                    self.inflow.consume(count, out);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                // The program has closed it.
                Err(_) => self.is_shut = true,
            }
        }
        if self.is_shut {
            let unread = self.queue.len();
            self.queue.clear();
            self.inflow.consume(unread, out);
        } else if self.host_ended && self.queue.is_empty() {
            let _ = shutdown(&self.socket, Shutdown::Write);
            self.is_shut = true;
        }
    }

    fn read(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> io::Result<()> {
        let longest = buffer.len().min(self.flow.room());
        if longest == 0 || !self.readable || self.program_ended {
            return Ok(());
        }
        match self.socket.read(&mut buffer[..longest]) {
            Ok(0) => {
                self.program_ended = true;
                out.push(&ToHost::Eof { id: self.id });
            }
            Ok(count) => self.flow.send(buffer[..count].to_vec(), out),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Begins to connect to an address, or to one behind it.
fn begin(port: u16, address: &mut usize) -> Result<File, Errno> {
    loop {
        let result = begin_with(SocketAddr::new(ADDRESSES[*address], port));
        if result.is_ok() || *address + 1 == ADDRESSES.len() {
            return result;
        }
        *address += 1;
    }
}

fn begin_with(address: SocketAddr) -> Result<File, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}

fn of_connect(port: u16, error: Errno) -> Outcome {
    let attempt = format_args!("connect to port {port}");
    match error {
        // The second address may not exist at all.
        Errno::CONNREFUSED | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::NETUNREACH => {
            failed(
                FailureKind::Refused,
                format_args!("{attempt}: no program listens there"),
            )
        }
        error => refused(attempt, &error.into(), FailureKind::Io),
    }
}

impl Transfer for Tunnel {
    fn content(
        &mut self,
        _: RequestId,
        bytes: &[u8],
        out: &mut Outgoing,
    ) -> Result<Option<Outcome>, Violation> {
        if self.host_ended {
            return Err(Violation::UnexpectedContent(self.id));
        }
        self.inflow.arrive(bytes.len())?;
        self.queue.extend(bytes);
        // Only a write tells whether there is room, but for a program that is still to answer.
        self.writable |= self.is_connected;
        if self.is_shut {
            self.write(out);
        }
        Ok(None)
    }

    fn end_of_content(&mut self, id: RequestId) -> Result<Option<Outcome>, Violation> {
        if std::mem::replace(&mut self.host_ended, true) {
            return Err(Violation::UnexpectedContent(id));
        }
        Ok(None)
    }

    fn taken(&mut self, offset: u64) -> bool {
        self.flow.taken(offset)
    }

    fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        if !self.is_connected || (!self.queue.is_empty() && !self.is_shut) {
            flags.set(PollFlags::OUT, !self.writable);
        }
        if self.is_connected && !self.program_ended && self.flow.room() > 0 {
            flags.set(PollFlags::IN, !self.readable);
        }
        (!flags.is_empty()).then(|| (self.socket.as_fd(), flags))
    }

    fn serve(&mut self, events: PollFlags) {
        let over = events.intersects(PollFlags::HUP | PollFlags::ERR);
        self.readable |= over || events.contains(PollFlags::IN);
        self.writable |= over || events.contains(PollFlags::OUT);
    }

    fn is_connection(&self) -> bool {
        true
    }

    fn is_ready(&self) -> bool {
        if !self.is_connected {
            return self.writable;
        }
        let writes = !self.is_shut && self.writable && !self.queue.is_empty();
        let shuts = !self.is_shut && self.host_ended && self.queue.is_empty();
        let reads = self.readable && !self.program_ended && self.flow.room() > 0;
        writes || shuts || reads || (self.is_shut && self.program_ended)
    }

    fn step(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        if !self.is_connected {
            if let Err(error) = self.finish_connecting(out) {
                return Some(of_connect(self.port, error));
            }
            return None;
        }
        self.write(out);
        if let Err(error) = self.read(buffer, out) {
            let attempt = format_args!("read from port {}", self.port);
            return Some(refused(attempt, &error, FailureKind::Io));
        }
        (self.is_shut && self.program_ended).then_some(Outcome::Disconnected)
    }
}
