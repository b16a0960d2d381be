//! Fresh, isolated microVMs in milliseconds: see [`vm`].

pub mod metrics;
mod sys;
pub mod template;
pub mod vm;
