//! Finds the processes that hold a lock. Asks the kernel at that moment: no record could be stale,
//! or name a process that reuses a PID.

use std::fmt;
use std::fs::File;
use std::io;

use serde::Serialize;

use ironclaw_host::proc::{self, FileId, Proc};

use crate::timestamp::Timestamp;

/// Attempts to find a holder: the kernel lists its locks a page at a time, and skips some when
/// others end between two pages.
const ATTEMPTS: usize = 4;

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Its PID.
    pub pid: u32,
    /// The name by which its program was called.
    pub program: String,
    /// The time when it started.
    pub started: Timestamp,
}

/// The processes that hold a lock, as far as this process may see them; empty if they are in
/// another container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Owners(pub Vec<Owner>);

impl Owners {
    /// Finds those that hold the lock on the open `file`.
    pub fn find(file: &File) -> Self {
        let found = || -> io::Result<Vec<Owner>> {
            let stat = rustix::fs::fstat(file)?;
            let id = FileId {
                device: stat.st_dev,
                inode: stat.st_ino,
            };
            let holders = proc::with_locks()?.into_iter();
            // A process of another user, or one that ended meanwhile.
            let holders = holders.filter(|process| process.locks(id).unwrap_or(false));
            Ok(holders
                .filter_map(|it| Owner::from_process(&it).ok())
                .collect())
        };
        let looks = std::iter::repeat_with(found).take(ATTEMPTS);
        let mut seen = looks.skip_while(|found| found.as_ref().is_ok_and(Vec::is_empty));
        match seen.next().unwrap_or_else(|| Ok(Vec::new())) {
            Ok(owners) => Self(owners),
            Err(error) => {
                tracing::debug!(%error, "can't tell who holds a lock");
                Self::default()
            }
        }
    }
}

impl Owner {
    fn from_process(process: &Proc) -> io::Result<Self> {
        Ok(Self {
            pid: process.pid(),
            program: process.program()?,
            started: process.started()?.into(),
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, program, .. } = self;
        if *pid == std::process::id() {
            write!(f, "this process ({pid})")
        } else {
            write!(f, "{program} (process {pid})")
        }
    }
}

impl fmt::Display for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("a process that can't be seen from here");
        }
        for (index, owner) in self.0.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{owner}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_by_program_and_number() {
        let owner = |pid, program: &str| Owner {
            pid,
            program: program.to_owned(),
            started: Timestamp::now(),
        };
        let us = std::process::id();
        let owners = Owners(vec![owner(1, "ironclaw"), owner(us, "test")]);
        let expected = format!("ironclaw (process 1), this process ({us})");
        assert_eq!(owners.to_string(), expected);
        assert!(Owners::default().to_string().contains("can't be seen"));
    }
}
