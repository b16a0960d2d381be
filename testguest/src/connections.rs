//! The vsock connections to the guest's only port, without the device: packets go in, packets come
//! out.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use ironclaw_protocol::VSOCK_PORT;

use crate::guest::Guest;
use crate::packet::{HEADER, HOST, Header, Operation, SHUTDOWN_BOTH, STREAM};
use crate::session::Session;

/// Limit of connections.
pub const MAX_CONNECTIONS: usize = 8;

/// Bytes that the host may have under way on one connection.
pub const BUFFER: u32 = 64 * 1024;

/// Number of bytes taken after which the host is told even if there is nothing else to send.
const CREDIT_STEP: u32 = BUFFER / 4;

/// Limit of refusals waiting to be sent. Beyond it the host gets no answer: it sent packets for
/// connections that do not exist.
const MAX_REFUSALS: usize = 16;

#[derive(Debug)]
struct Connection {
    host_port: u32,
    session: Session,
    accepted: bool,
    shut_down: bool,
    /// Bytes received since the start; wraps, as do the next four.
    received: u32,
    /// The part of them for which the session has room.
    taken: u32,
    /// The part of them reported to the host.
    told: u32,
    sent: u32,
    host_buffer: u32,
    host_taken: u32,
    credit_asked: bool,
    credit_due: bool,
}

impl Connection {
    fn new(host_port: u32) -> Self {
        Self {
            host_port,
            session: Session::new(),
            accepted: false,
            shut_down: false,
            received: 0,
            taken: 0,
            told: 0,
            sent: 0,
            host_buffer: 0,
            host_taken: 0,
            credit_asked: false,
            credit_due: false,
        }
    }

    /// Bytes for which the host has room.
    fn room(&self) -> u32 {
        self.host_buffer
            .saturating_sub(self.sent.wrapping_sub(self.host_taken))
    }

    fn take(&mut self) {
        if !self.session.is_congested() {
            self.taken = self.received;
        }
    }

    /// Returns the next packet's operation, flags and number of bytes of the session's output.
    fn next(&mut self, room: usize) -> Option<(Operation, u32, usize)> {
        if !self.accepted {
            self.accepted = true;
            return Some((Operation::Response, 0, 0));
        }
        let waiting = self.session.output().len();
        let length = waiting.min(room).min(self.room() as usize);
        if length > 0 {
            return Some((Operation::Data, 0, length));
        }
        if waiting > 0 && !self.credit_asked {
            self.credit_asked = true;
            return Some((Operation::CreditRequest, 0, 0));
        }
        if self.credit_due || self.taken.wrapping_sub(self.told) >= CREDIT_STEP {
            self.credit_due = false;
            return Some((Operation::CreditUpdate, 0, 0));
        }
        if self.session.is_over() && waiting == 0 && !self.shut_down {
            self.shut_down = true;
            return Some((Operation::Shutdown, SHUTDOWN_BOTH, 0));
        }
        None
    }
}

/// All connections.
#[derive(Debug)]
pub struct Connections {
    cid: u64,
    table: Vec<Connection>,
    /// Sessions whose connection is gone.
    lost: Vec<Session>,
    refusals: VecDeque<Header>,
    /// The connection whose turn it is to send.
    turn: usize,
}

impl Connections {
    /// Creates an empty set, for a guest with the context id `cid`.
    #[must_use]
    pub fn new(cid: u64) -> Self {
        Self {
            cid,
            table: Vec::new(),
            lost: Vec::new(),
            refusals: VecDeque::new(),
            turn: 0,
        }
    }

    /// Drops all connections without notice, because the other ends are gone: the guest was
    /// restored from a snapshot, and its context id may be another.
    pub fn reset(&mut self, cid: u64) {
        let lost = core::mem::take(&mut self.table).into_iter();
        let lost = lost.map(|connection| connection.session).collect();
        *self = Self::new(cid);
        self.lost = lost;
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether there is no open connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Returns whether every session's output is on its way.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.table
            .iter()
            .all(|connection| connection.session.output().is_empty())
    }

    /// Runs every session. Returns whether anything was done.
    pub fn pump(&mut self, guest: &mut Guest) -> bool {
        for mut session in self.lost.drain(..) {
            session.close(guest);
        }
        let mut worked = guest.work();
        for connection in &mut self.table {
            worked |= connection.session.pump(guest);
            connection.take();
        }
        worked
    }

    /// Handles a packet from the device. Answers unexpected ones with a reset, as the specification
    /// requires.
    pub fn receive(&mut self, packet: &[u8]) {
        let Some(header) = Header::read(packet) else {
            return;
        };
        let body = &packet[HEADER..];
        let ours = header.target_cid == self.cid
            && header.source_cid == HOST
            && header.target_port == VSOCK_PORT
            && header.kind == STREAM
            && header.length as usize == body.len();
        let found = self
            .table
            .iter()
            .position(|c| ours && c.host_port == header.source_port);
        let accepted = match (header.operation, found) {
            (Operation::Request, None) if ours && self.table.len() < MAX_CONNECTIONS => {
                let mut connection = Connection::new(header.source_port);
                connection.host_buffer = header.buffer;
                connection.host_taken = header.taken;
                self.table.push(connection);
                true
            }
            (Operation::Data | Operation::CreditUpdate | Operation::CreditRequest, Some(index)) => {
                Self::update(&mut self.table[index], &header, body)
            }
            (Operation::Reset, _) => {
                if let Some(index) = found {
                    self.remove(index);
                }
                true
            }
            _ => false,
        };
        if !accepted {
            if let Some(index) = found {
                self.remove(index);
            }
            if self.refusals.len() < MAX_REFUSALS {
                self.refusals.push_back(header.refusal());
            }
        }
    }

    fn remove(&mut self, index: usize) {
        self.lost.push(self.table.remove(index).session);
    }

    fn update(connection: &mut Connection, header: &Header, body: &[u8]) -> bool {
        connection.host_buffer = header.buffer;
        connection.host_taken = header.taken;
        connection.credit_asked &= connection.room() == 0;
        connection.credit_due |= header.operation == Operation::CreditRequest;
        let under_way = connection.received.wrapping_sub(connection.told);
        if header.length > BUFFER - under_way.min(BUFFER) {
            return false;
        }
        connection.received = connection.received.wrapping_add(header.length);
        connection.session.receive(body);
        connection.take();
        true
    }

    /// Writes the next packet to send into `packet`; returns its length.
    pub fn next_packet(&mut self, packet: &mut [u8]) -> Option<usize> {
        if let Some(refusal) = self.refusals.pop_front() {
            packet[..HEADER].copy_from_slice(&refusal.to_bytes());
            return Some(HEADER);
        }
        for _ in 0..self.table.len() {
            self.turn = (self.turn + 1) % self.table.len();
            let connection = &mut self.table[self.turn];
            let Some((operation, flags, length)) = connection.next(packet.len() - HEADER) else {
                continue;
            };
            let count = u32::try_from(length).unwrap_or(u32::MAX);
            let header = Header {
                source_cid: self.cid,
                target_cid: HOST,
                source_port: VSOCK_PORT,
                target_port: connection.host_port,
                length: count,
                kind: STREAM,
                operation,
                flags,
                buffer: BUFFER,
                taken: connection.taken,
            };
            connection.told = connection.taken;
            connection.sent = connection.sent.wrapping_add(count);
            packet[..HEADER].copy_from_slice(&header.to_bytes());
            packet[HEADER..HEADER + length].copy_from_slice(&connection.session.output()[..length]);
            connection.session.sent(length);
            return Some(HEADER + length);
        }
        None
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
