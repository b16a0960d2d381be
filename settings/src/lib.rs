//! Settings: their names, ranges and defaults, and the sources of their values.
//!
//! ```text
//!   defaults  <  a TOML file  <  variables  <  flags
//! ```
//!
//! Each setting is declared once, as a [`Setting`], which determines its variable, its key in the
//! file, its part of help texts, and the error about a bad value. Only this package knows the names
//! of variables and the place of the file.

#![forbid(unsafe_code)]

mod file;
mod set_by;
mod setting;
mod strays;
mod values;

pub use file::{CONFIG, FileError, find as find_file};
pub use set_by::SetBy;
pub use setting::{DefaultValue, PREFIX, Setting, Takes, with_variables};
pub use strays::is_stray;
pub use values::{BadValue, UnknownSetting, Value, Values};
