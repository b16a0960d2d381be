//! The kernel's announcements of devices.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group of the kernel itself (2 is udev's).
const KERNEL: u32 = 1;

/// Gives a socket that becomes readable when a device appears or changes.
pub(crate) fn watch() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::DGRAM;
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    Ok(socket)
}

/// Throws the announcements away that have come; what they announce is looked up in /sys.
pub(crate) fn drain(socket: BorrowedFd<'_>) {
    // ENOBUFS says that some were lost: also a reason to look, and no reason to stop reading.
    let mut buffer = [0_u8; 64];
    loop {
        match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
