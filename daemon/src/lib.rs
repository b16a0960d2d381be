//! What `ironclaw serve` and `ironclaw key` do.

#![forbid(unsafe_code)]

mod help;
mod key;
mod key_args;
mod serve;
mod serve_args;

pub use key::perform as key;
pub use key_args::KeyArgs;
pub use serve::{run as serve, socket};
pub use serve_args::Serve;
