//! The kernel's events about devices.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group of the kernel (2 is udev's).
const KERNEL: u32 = 1;

/// Opens a socket that becomes readable when a device appears or changes.
pub(crate) fn watch() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::DGRAM;
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    Ok(socket)
}

/// Discards pending events; the devices themselves are looked up in /sys.
pub(crate) fn drain(socket: BorrowedFd<'_>) {
    // ENOBUFS means that events were lost: a reason to look, too, not to stop reading.
    let mut buffer = [0_u8; 64];
    loop {
        match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
