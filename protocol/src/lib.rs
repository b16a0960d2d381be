//! The protocol between an IronClaw host and the agent in a guest.
//!
//! The crate has no I/O and no `std`, so that the host, the Linux agent and a bare-metal guest
//! share one implementation. It has two layers:
//!
//! * [`frame`]: how a byte stream is cut into frames, and how two ends that lost each other
//!   (a snapshot was restored, a host process was replaced) find a common start again;
//! * [`message`]: what is in the frames; of files, [`mod@file`], and [`records`] where there are many.
//!
//! On top of them, [`session`] is a guest's end of a line, shared by all guests.
//!
//! A command belongs to its guest, not to a session: [`process_table`] has a guest's commands,
//! which a host finds again after its session was lost, as at each snapshot.
//!
//! ```text
//!   host                                   guest
//!    │ MAGIC, Hello{version, session} ──────▶│
//!    │◀────── MAGIC, Hello{version, session} │   same session number: now both are in step
//!    │ Request{id, Exec} ───────────────────▶│
//!    │ Data{id} .. Eof{id} ─────────────────▶│   standard input, within the guest's credit
//!    │◀──────────── Data{id, stdout|stderr}  │   within the window beyond what the host took
//!    │ Taken{id, stream, offset} ───────────▶│
//!    │◀───────────── Done{id, Outcome}       │   exactly one for every request
//!    │ Acknowledge{exec} ───────────────────▶│   the guest forgets the command
//!    │ Request{id, Connect} ────────────────▶│   also Watch: `Opened` comes before anything else
//!    │◀────────────────── Opened{id}, Data.. │
//!    ╳                                       │   the connection is lost; the command goes on
//!    │ MAGIC, Hello ... Attach{exec, from} ─▶│   in a new one
//!    │◀─── Attached{from}, Data{id} .. Done  │   what was under way comes again
//! ```
//!
//! Neither side trusts the other: every length, count and string is bounded by [`limits`], and
//! the first thing out of bounds ends the session.

#![no_std]
#![cfg_attr(not(test), forbid(unsafe_code))]

extern crate alloc;

mod bounds;
pub mod file;
pub mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod message;
pub mod os_bytes;
mod outgoing;
pub mod process_table;
pub mod records;
mod ring;
pub mod session;
mod shown;

/// The version of the protocol; both ends send theirs in `Hello` and refuse any other.
pub const VERSION: u16 = 5;

/// The name of the virtio-serial port that the agent listens on (`/sys/class/virtio-ports/*/name`
/// in the guest).
pub const SERIAL_PORT_NAME: &str = "ironclaw.agent.0";

/// The argument of a guest's kernel that makes the agent change to the root disk.
pub const ROOT_DISK_ARGUMENT: &str = "ironclaw.root=disk";

/// The port that the agent listens on over virtio-vsock.
pub const VSOCK_PORT: u32 = 5252;
