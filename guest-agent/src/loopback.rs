//! Brings the loopback network device up.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};

// From linux/rtnetlink.h, linux/netlink.h, linux/if.h.
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// The loopback device is the first that the kernel registers in a network namespace.
const INDEX: i32 = 1;

/// The length of `struct nlmsghdr` and of `struct ifinfomsg`.
const HEADER: usize = 16;

/// Brings the device up; the kernel then assigns 127.0.0.1 and ::1.
pub(crate) fn up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut request = Vec::with_capacity(2 * HEADER);
    request.extend_from_slice(&32_u32.to_ne_bytes());
    request.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence number and port: not needed for a single request.
    request.extend_from_slice(&[0; 8]);
    // Family, padding and device type: any.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&INDEX.to_ne_bytes());
    // The flags, and a mask of those to change.
    request.extend_from_slice(&IFF_UP.to_ne_bytes());
    request.extend_from_slice(&IFF_UP.to_ne_bytes());
    sendto(
        &socket,
        &request,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;

    let mut answer = [0_u8; 4 * HEADER];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let kind = answer[..length]
        .get(4..6)
        .map(|kind| kind == NLMSG_ERROR.to_ne_bytes());
    let code = answer[..length]
        .get(HEADER..)
        .and_then(|rest| rest.first_chunk::<4>());
    match (kind, code.map(|code| i32::from_ne_bytes(*code))) {
        (Some(true), Some(0)) => Ok(()),
        (Some(true), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
