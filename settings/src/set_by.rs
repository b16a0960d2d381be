//! What set a value.

use std::fmt;
use std::path::PathBuf;

/// What set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetBy {
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// An option of the command line, as written there.
    Flag(&'static str),
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl SetBy {
    /// Returns what sets `key` there, as people write it.
    pub(crate) fn of_key(&self, key: &str) -> String {
        match self {
            Self::File { .. } => format!("{self}: {key}"),
            Self::Variable(name) => name.clone(),
            Self::Flag(flag) => format!("{flag} {key}"),
        }
    }
}
