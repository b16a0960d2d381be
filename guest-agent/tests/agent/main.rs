//! Tests the agent as an ordinary process on a Unix socket, through the protocol.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod attach;
mod exec;
mod extract;
mod file_requests;
mod files;
mod flow;
mod host;
mod processes;
mod terminal;
mod tunnel;
mod users;
mod watch;
mod wire;
