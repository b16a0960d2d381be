//! The part of the test guest that needs no hardware: the guest's side of the protocol, its
//! built-in commands and its vsock connections. See the crate's binary for what it is for.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot;
mod command;
pub mod commands;
pub mod connections;
#[cfg(test)]
mod fake_machine;
pub mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod generator;
pub mod guest;
pub mod machine;
pub mod packet;
pub mod session;
mod task;
mod transfer;
