//! Fresh, isolated microVMs in milliseconds: see [`vm`].

mod sys;
pub mod template;
pub mod vm;
