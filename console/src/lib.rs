//! The program's side towards a terminal or a pipe: standard streams, progress, and the signals
//! that end it. Knows no command of `ironclaw`.

#![forbid(unsafe_code)]

mod error_chain;
pub mod output;
mod output_closed;
pub mod progress;
pub mod signals;
pub mod streams;

pub use error_chain::{causes, for_users};
pub use output_closed::{OutputClosed, written};
