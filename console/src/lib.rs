//! The program's side towards a terminal or a pipe, and towards the system: standard streams, progress, the log,
//! the signals that end it, and threads; and a guest's command, connected with all of these.
//! Knows no command of `ironclaw`.

#![forbid(unsafe_code)]

pub mod connections;
mod error_chain;
pub mod guest_io;
pub mod logging;
pub mod output;
mod output_closed;
pub mod progress;
pub mod runtime;
pub mod signals;
pub mod streams;
pub mod terminal;
pub mod value;

pub use error_chain::{causes, for_users};
pub use ironclaw_host::untrusted::{Marked, line as untrusted_line};
pub use output_closed::{OutputClosed, written};
