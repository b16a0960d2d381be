//! Fresh, isolated microVMs in milliseconds.

pub mod template;
pub mod vm;
