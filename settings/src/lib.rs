//! Settings: what each is called, takes and is by default, and where its value comes from.
//!
//! ```text
//!   defaults  <  a TOML file  <  variables  <  flags
//! ```
//!
//! Who has settings declares each once, as a [`Setting`]. From that declaration come its variable, its key
//! in the file, its part of help texts and what is said of a bad value. This package alone knows how
//! variables are called and where the file is.

#![forbid(unsafe_code)]

mod file;
mod origin;
mod setting;
mod values;

pub use file::{CONFIG, FileError, find as find_file};
pub use origin::Origin;
pub use setting::{DefaultValue, PREFIX, Setting, Takes, with_variables};
pub use values::{BadValue, UnknownSetting, Value, Values};
