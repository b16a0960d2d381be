//! Conditions of the host under which a request fails and changes nothing: they pass, or an operator ends them.

use std::error::Error;
use std::io;

use ironclaw_host::disk;
use ironclaw_orchestrator::vm::ErrorKind;
use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// A condition of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostFault {
    /// Another process holds the lock of the database.
    DatabaseLocked,
    /// The database is damaged, or its file can't be read or written.
    DatabaseDamaged,
    /// A disk is full.
    DiskFull,
}

impl HostFault {
    /// Finds it among an error and its causes.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(fault) = Self::of_one(error) {
                return Some(fault);
            }
            next = error.source();
        }
        None
    }

    fn of_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(rusqlite::Error::SqliteFailure(failure, _)) = error.downcast_ref() {
            return match failure.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Some(Self::DatabaseLocked),
                ErrorCode::DiskFull => Some(Self::DiskFull),
                // The index of the write-ahead log could not grow.
                _ if failure.extended_code == SQLITE_IOERR_SHMSIZE => Some(Self::DiskFull),
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly => Some(Self::DatabaseDamaged),
                _ => None,
            };
        }
        let is_full = match error.downcast_ref::<io::Error>() {
            Some(error) => disk::is_full(error),
            None => ErrorKind::of(error) == Some(ErrorKind::NoSpace),
        };
        is_full.then_some(Self::DiskFull)
    }

    /// Returns what clients are told: nothing of the host's paths.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::DatabaseLocked => {
                "another process holds the lock of the daemon's database: nothing is changed; ask again"
            }
            Self::DatabaseDamaged => {
                "the daemon's database can't be read or written: nothing is changed, and its operator finds \
                 the reason in the daemon's log"
            }
            Self::DiskFull => {
                "a disk of the host is full: nothing is changed; delete sandboxes or checkpoints, or have its \
                 operator make room"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;
    use crate::database::DatabaseError;

    fn of_code(code: i32) -> Option<HostFault> {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        HostFault::of(&DatabaseError::Sqlite {
            operation: "test",
            path: "daemon.db".into(),
            source,
        })
    }

    #[test]
    fn a_fault_is_found_behind_what_failed() {
        for (code, fault) in [
            (ffi::SQLITE_BUSY, Some(HostFault::DatabaseLocked)),
            (ffi::SQLITE_BUSY_SNAPSHOT, Some(HostFault::DatabaseLocked)),
            (ffi::SQLITE_FULL, Some(HostFault::DiskFull)),
            (SQLITE_IOERR_SHMSIZE, Some(HostFault::DiskFull)),
            (ffi::SQLITE_CORRUPT, Some(HostFault::DatabaseDamaged)),
            (ffi::SQLITE_NOTADB, Some(HostFault::DatabaseDamaged)),
            (ffi::SQLITE_READONLY, Some(HostFault::DatabaseDamaged)),
            (ffi::SQLITE_CONSTRAINT, None),
        ] {
            assert_eq!(of_code(code), fault, "{code}");
        }
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(HostFault::of(&full), Some(HostFault::DiskFull));
        let other = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(HostFault::of(&other), None);
    }

    #[test]
    fn a_fault_tells_no_path() {
        for fault in [
            HostFault::DatabaseLocked,
            HostFault::DatabaseDamaged,
            HostFault::DiskFull,
        ] {
            assert!(!fault.text().contains('/'), "{}", fault.text());
        }
    }
}
