//! A program at a terminal or in a pipe: its standard streams, how it shows progress there, and the
//! signals that end it. No command of `ironclaw` is known here.

#![forbid(unsafe_code)]

mod error_chain;
pub mod output;
mod output_closed;
pub mod progress;
pub mod signals;
pub mod streams;

pub use error_chain::causes;
pub use output_closed::{OutputClosed, written};
