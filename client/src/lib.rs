//! A client of the daemon, and the commands of `ironclaw` that ask one.
//!
//! ```text
//!  commands ──▶ client ──▶ address
//!      │           │
//!      ▼           ▼
//!   shapes      refusal
//! ```
//!
//! [`Client`] speaks the daemon's API (`/v1`) over its Unix socket or over TCP. It knows nothing of how VMs are
//! made: what a daemon does is told by its answers.

#![forbid(unsafe_code)]

mod address;
mod client;
pub mod commands;
mod follow;
mod refusal;
mod shapes;
mod transfer;

pub use address::{Address, BadAddress};
pub use client::{Channel, Client, Method, Socket, Tunnel};
pub use refusal::{ClientError, Refusal};
pub use shapes::{Done, Exec, NewSandbox, Page, Sandbox};
pub use transfer::Body;
