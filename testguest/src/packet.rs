//! The packets of virtio-vsock (Virtual I/O Device specification 1.2, section 5.10.6).

/// Length of a packet's header, in bytes.
pub const HEADER: usize = 44;

/// Context id of the host.
pub const HOST: u64 = 2;

/// Type of a stream connection, the only one there is here.
pub const STREAM: u16 = 1;

/// Both flags of a [`Operation::Shutdown`]: the sender will neither receive nor send.
pub const SHUTDOWN_BOTH: u32 = 3;

/// The operation of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Opens a connection.
    Request = 1,
    /// Accepts a connection.
    Response = 2,
    /// Ends or refuses a connection at once.
    Reset = 3,
    /// Ends a connection in good order.
    Shutdown = 4,
    /// Carries bytes.
    Data = 5,
    /// Reports how much was taken.
    CreditUpdate = 6,
    /// Asks how much was taken.
    CreditRequest = 7,
}

impl Operation {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Context id of the sender.
    pub source_cid: u64,
    /// Context id of the receiver.
    pub target_cid: u64,
    /// Port of the sender.
    pub source_port: u32,
    /// Port of the receiver.
    pub target_port: u32,
    /// Bytes that follow the header.
    pub length: u32,
    /// [`STREAM`].
    pub kind: u16,
    /// The packet's operation.
    pub operation: Operation,
    /// Depends on the operation.
    pub flags: u32,
    /// Bytes that the sender has room for, in all.
    pub buffer: u32,
    /// Bytes that the sender has taken out of its buffer since the start; wraps.
    pub taken: u32,
}

impl Header {
    /// Reads a header; `None` if it is cut short or its operation is unknown.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let bytes = packet.first_chunk::<HEADER>()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Some(Self {
            source_cid: u64_at(0),
            target_cid: u64_at(8),
            source_port: u32_at(16),
            target_port: u32_at(20),
            length: u32_at(24),
            kind: u16_at(28),
            operation: Operation::from_number(u16_at(30))?,
            flags: u32_at(32),
            buffer: u32_at(36),
            taken: u32_at(40),
        })
    }

    /// Encodes the header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.target_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.target_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&(self.operation as u16).to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buffer.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.taken.to_le_bytes());
        bytes
    }

    /// Returns the answer that ends the connection of this packet.
    #[must_use]
    pub fn refusal(&self) -> Self {
        Self {
            source_cid: self.target_cid,
            target_cid: self.source_cid,
            source_port: self.target_port,
            target_port: self.source_port,
            length: 0,
            kind: STREAM,
            operation: Operation::Reset,
            flags: 0,
            buffer: 0,
            taken: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header {
            source_cid: 0x1_0000_0002,
            target_cid: 3,
            source_port: 0x4000_0000,
            target_port: 5252,
            length: 70_000,
            kind: STREAM,
            operation: Operation::Data,
            flags: 1,
            buffer: 65536,
            taken: 0xffff_fffe,
        };
        assert_eq!(Header::read(&header.to_bytes()), Some(header));
    }

    #[test]
    fn an_unknown_operation_and_a_short_packet_are_refused() {
        let mut bytes = [0; HEADER];
        assert_eq!(Header::read(&bytes), None);
        bytes[30] = 8;
        assert_eq!(Header::read(&bytes), None);
        bytes[30] = 7;
        assert!(Header::read(&bytes).is_some());
        assert_eq!(Header::read(&bytes[..HEADER - 1]), None);
    }
}
