//! Fresh, isolated microVMs in milliseconds: see [`vm`].

mod disk;
mod exposed;
mod mark;
pub mod metrics;
mod regular_file;
mod sys;
pub mod template;
mod untrusted;
pub mod vm;
