//! Where a value comes from.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from that somebody set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1 on.
        line: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// An option of a command line, as it is written there.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Origin {
    /// What sets `key` there, as people write it.
    pub(crate) fn of_key(&self, key: &str) -> String {
        match self {
            Self::File { .. } => format!("{self}: {key}"),
            Self::Variable(name) => name.clone(),
            Self::Flag(flag) => format!("{flag} {key}"),
        }
    }
}
