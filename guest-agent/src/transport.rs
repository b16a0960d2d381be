//! The kinds of connections between agent and host.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::fate::Fate;
use crate::serial::SerialPort;

/// A connection, open and non-blocking.
#[derive(Debug)]
pub(crate) enum Transport {
    /// The virtio-serial port: it exists as long as the guest, while hosts come and go.
    Serial(SerialPort),
    /// The connection of one host.
    Connection(File),
}

impl Transport {
    /// Wraps a connection that was accepted as non-blocking.
    pub(crate) fn connection(fd: OwnedFd) -> Self {
        Self::Connection(fd.into())
    }

    /// Returns the file to read from and write to.
    pub(crate) fn file(&self) -> &File {
        match self {
            Self::Serial(port) => port.file(),
            Self::Connection(file) => file,
        }
    }

    /// Returns a descriptor to wait for until a host comes; `None` while there is one.
    pub(crate) fn absent_host(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Serial(port) => port.absent_host(),
            Self::Connection(_) => None,
        }
    }

    /// Checks whether a host has come.
    pub(crate) fn look_for_host(&mut self) {
        if let Self::Serial(port) = self {
            port.look_for_host();
        }
    }

    /// Handles a hang-up of the host, or a broken connection.
    pub(crate) fn host_gone(&mut self) -> Fate {
        match self {
            Self::Serial(port) => port.host_gone(),
            Self::Connection(_) => Fate::Over,
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}
