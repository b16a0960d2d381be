//! A client of the daemon, and the commands of `ironclaw` that ask one.
//!
//! ```text
//!  commands ──▶ client ──▶ address
//!      │           │
//!      ▼           ▼
//!   shapes      refusal
//! ```
//!
//! [`Client`] speaks the daemon's API (`/v1`) over its Unix socket, over TCP or over TLS. It knows nothing of how VMs are
//! made: what a daemon does is told by its answers.

#![forbid(unsafe_code)]

mod address;
mod choice;
mod client;
pub mod commands;
mod follow;
mod port_way;
mod refusal;
mod run;
mod shapes;
mod stream;
mod tls;
mod transfer;

pub use address::{Address, BadAddress};
pub use choice::HostChoice;
pub use client::{Channel, Client, Method, Socket, Tunnel};
pub use port_way::PortWay;
pub use refusal::{ClientError, CommandFailed, Refusal};
pub use run::{Begun, Run, RunSandbox, WantedMachine};
pub use shapes::{Done, Exec, NewSandbox, Page, Sandbox, Size};
pub use transfer::Body;
