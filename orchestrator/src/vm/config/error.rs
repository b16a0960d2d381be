//! Settings that can't be used.

use std::path::PathBuf;

use ironclaw_settings::{BadValue, FileError, UnknownSetting};
use thiserror::Error;

/// A setting that can't be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting has a value outside of its range.
    #[error(transparent)]
    Invalid(#[from] BadValue),
    /// A file of settings can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A flag sets what is no setting.
    #[error(transparent)]
    Unknown(#[from] UnknownSetting),
    /// There is no home directory to put state into.
    #[error("no place for state: set HOME, XDG_STATE_HOME or {variable}")]
    NoStateDirectory {
        /// The variable that would say the place itself.
        variable: String,
    },
    /// A home directory that is no place for state.
    #[error(
        "{home}={value:?} can't be used as a place for state: it is {reason}; set it, or {variable}, \
         to an absolute path in UTF-8"
    )]
    UnusableHome {
        /// The variable that says where state is.
        home: &'static str,
        /// Its value.
        value: String,
        /// What keeps it from being used.
        reason: &'static str,
        /// The variable that would say the place itself.
        variable: String,
    },
    /// One of the state directories is in another, or is the same.
    #[error(
        "{inner}={} is in {outer}={}: what comes and goes in one must not be in another; set them \
         to directories of which none contains another",
        inner_path.display(), outer_path.display()
    )]
    Overlap {
        /// The setting of the one inside.
        inner: String,
        /// Its directory.
        inner_path: PathBuf,
        /// The setting of the one around it.
        outer: String,
        /// Its directory.
        outer_path: PathBuf,
    },
}
