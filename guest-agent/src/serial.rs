//! The virtio-serial port for a host without vsock.

use std::fs::{File, OpenOptions, read_dir, read_to_string};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ironclaw_protocol::SERIAL_PORT_NAME;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::OFlags;

use crate::fate::Fate;

/// The directory in which the kernel lists the ports.
const PORTS: &str = "/sys/class/virtio-ports";

/// Returns the device node of the agent's port, once the kernel knows its name.
pub(crate) fn find() -> Option<PathBuf> {
    let mut ports = read_dir(PORTS).ok()?.flatten();
    let port = ports.find(|port| {
        read_to_string(port.path().join("name"))
            .is_ok_and(|name| name.trim_end() == SERIAL_PORT_NAME)
    })?;
    Some(Path::new("/dev").join(port.file_name()))
}

/// The open port.
///
/// While no host is connected, the driver (drivers/char/virtio_console.c) reports the port as
/// readable and hung up, so waiting for it would spin. But it wakes those who wait for the port
/// when a host comes, and an edge-triggered epoll shows just that.
#[derive(Debug)]
pub(crate) struct SerialPort {
    file: File,
    edges: OwnedFd,
    host: bool,
}

impl SerialPort {
    /// Opens the port. The node exists before the driver lets it be opened (`ENXIO`).
    pub(crate) fn open(node: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(node)?;
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &file, epoll::EventData::new_u64(0), events)?;
        let mut port = Self {
            file,
            edges,
            host: false,
        };
        port.look_for_host();
        Ok(port)
    }

    /// Returns the file to read from and write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns a descriptor that becomes readable when a host may have come; `None` while there is
    /// one.
    pub(crate) fn absent_host(&self) -> Option<BorrowedFd<'_>> {
        (!self.host).then(|| self.edges.as_fd())
    }

    /// Checks whether a host has come.
    pub(crate) fn look_for_host(&mut self) {
        // Clears the edge first: a host that comes in between is then still reported.
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let _ = epoll::wait(&self.edges, &mut events, Some(&Timespec::default()));
        let mut port = [PollFd::new(&self.file, PollFlags::IN | PollFlags::OUT)];
        let polled = poll(&mut port, Some(&Timespec::default()));
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        self.host = polled.is_ok() && !port[0].revents().intersects(gone);
    }

    /// Handles a hang-up of the host, or the removal of the port.
    pub(crate) fn host_gone(&mut self) -> Fate {
        self.host = false;
        // A removed port stays so: reads return ENODEV from now on.
        match rustix::io::read(&self.file, &mut [0_u8; 0]) {
            Err(rustix::io::Errno::NODEV) => Fate::Over,
            _ => Fate::Kept,
        }
    }
}
