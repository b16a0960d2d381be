//! Virtual machines.
pub mod guest;
pub use guest::*;
