//! Fresh, isolated microVMs in milliseconds: see [`vm`].

mod disk;
mod mark;
pub mod metrics;
mod regular_file;
mod state_path;
mod sys;
pub mod template;
mod untrusted;
pub mod vm;
