//! The agent as an ordinary process on a Unix socket, driven through the protocol.

mod exec;
mod files;
mod flow;
mod host;
mod processes;
mod wire;
