//! Fresh, isolated microVMs in milliseconds: see [`vm`].

mod disk;
mod exposed;
pub mod metrics;
mod sys;
pub mod template;
pub mod vm;
