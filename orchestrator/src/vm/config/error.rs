//! Errors of settings.

use std::path::PathBuf;

use ironclaw_settings::{BadValue, FileError, UnknownSetting};
use thiserror::Error;

/// The error of a setting.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is out of range.
    #[error(transparent)]
    Invalid(#[from] BadValue),
    /// A file of settings can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A flag sets an unknown setting.
    #[error(transparent)]
    Unknown(#[from] UnknownSetting),
    /// There is no home directory for state.
    #[error("no place for state: set HOME, XDG_STATE_HOME or {variable}")]
    NoStateDirectory {
        /// The variable that could name the directory instead.
        variable: String,
    },
    /// The home directory can't be used for state.
    #[error(
        "{home}={value:?} can't be used as a place for state: it is {reason}; set it, or {variable}, \
         to an absolute path in UTF-8"
    )]
    UnusableHome {
        /// The variable with the home directory.
        home: &'static str,
        /// Its value.
        value: String,
        /// The reason.
        reason: &'static str,
        /// The variable that could name the directory instead.
        variable: String,
    },
    /// A state directory is in another, or the same.
    #[error(
        "{inner}={} is in {outer}={}: what comes and goes in one must not be in another; set them \
         to directories of which none contains another",
        inner_path.display(), outer_path.display()
    )]
    Overlap {
        /// The setting of the inner one.
        inner: String,
        /// The inner directory.
        inner_path: PathBuf,
        /// The setting of the outer one.
        outer: String,
        /// The outer directory.
        outer_path: PathBuf,
    },
}
