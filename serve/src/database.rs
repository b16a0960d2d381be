//! The daemon's database: keys, and sandboxes that outlive the process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use thiserror::Error;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use crate::host_fault::HostFault;

/// Time that another process may hold the database's lock: a transaction takes milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What brings a database of one version to the next; `user_version` counts them.
const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE key (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        hash TEXT NOT NULL UNIQUE,
        hint TEXT NOT NULL,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE paused_sandbox (
        id TEXT PRIMARY KEY,
        checkpoint TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT;",
    // The rowid tells which one is newer.
    "CREATE TABLE sandbox_checkpoint (
        id TEXT NOT NULL UNIQUE,
        snapshot TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE daemon (id TEXT NOT NULL) STRICT;
    INSERT INTO daemon (id) VALUES (lower(hex(randomblob(16))));",
];

/// The database of a daemon, in SQLite. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    connection: Arc<Mutex<Connection>>,
    /// Reads while the other one waits for its turn to write.
    reader: Arc<Mutex<Connection>>,
    path: PathBuf,
    owner: Arc<str>,
}

/// A database that is claimed by a daemon.
#[derive(Debug)]
#[must_use = "dropping it lets another daemon claim the database"]
pub struct Claim {
    _file: File,
}

/// The reason why the database can't be used. What is in it stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Its file or directory can't be made.
    #[error("can't make {path}")]
    Create {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// SQLite can't do it: the file is locked, damaged or no database, or the disk is full.
    #[error("can't {operation} the database {path}")]
    Sqlite {
        /// What was to be done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: rusqlite::Error,
    },
    /// Another daemon uses it.
    #[error("another daemon uses the database {0}")]
    Taken(PathBuf),
    /// A newer version of the program wrote it.
    #[error("the database {path} has version {found}, and this program knows those up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest version that is known.
        known: usize,
    },
}

impl Database {
    /// Opens the database of a state directory, and makes it (0600) if there is none.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open(directory: &Path) -> Result<Self, DatabaseError> {
        let path = directory.join("daemon.db");
        let create = |source| DatabaseError::Create {
            path: path.clone(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).map_err(create)?;
        // SQLite gives its other files the mode of this one.
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        options.open(&path).map_err(create)?;
        let connected = || {
            let connection = connect(&path).map_err(|source| DatabaseError::Sqlite {
                operation: "open",
                path: path.clone(),
                source,
            })?;
            Ok::<_, DatabaseError>(Arc::new(Mutex::new(connection)))
        };
        let mut database = Self {
            connection: connected()?,
            reader: connected()?,
            path,
            owner: Arc::default(),
        };
        database.migrate()?;
        let id: String = database.run("read the id of", |connection| {
            connection.query_row("SELECT id FROM daemon", [], |row| row.get(0))
        })?;
        database.owner = format!("ironclaw serve {id}").into();
        Ok(database)
    }

    /// Returns the name under which the checkpoints of this database's daemon are kept in the store of
    /// snapshots, which other daemons may share.
    pub(crate) fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Returns the directory of its file.
    pub(crate) fn directory(&self) -> &Path {
        // It was joined.
        self.path.parent().unwrap_or(&self.path)
    }

    /// Claims the database for a daemon, until what is returned is dropped: no other may take up its
    /// sandboxes meanwhile.
    ///
    /// # Errors
    /// [`DatabaseError::Taken`] if another daemon has it.
    pub fn claim(&self) -> Result<Claim, DatabaseError> {
        let path = self.path.with_extension("lock");
        let create = |source| DatabaseError::Create {
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let file = options.open(&path).map_err(create)?;
        match file.try_lock() {
            Ok(()) => Ok(Claim { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DatabaseError::Taken(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(create(source)),
        }
    }

    fn migrate(&self) -> Result<(), DatabaseError> {
        let known = MIGRATIONS.len();
        let found = self.run("bring up to date", |connection| {
            let version = |on: &Connection| -> rusqlite::Result<usize> {
                on.pragma_query_value(None, "user_version", |row| row.get(0))
            };
            // Who has nothing to do waits for nobody who writes.
            let found = version(connection)?;
            if found >= known {
                return Ok(found);
            }
            let behavior = TransactionBehavior::Immediate;
            let transaction = connection.transaction_with_behavior(behavior)?;
            // Another process may have done it by now.
            let found = version(&transaction)?;
            if let Some(missing) = MIGRATIONS.get(found..).filter(|all| !all.is_empty()) {
                for migration in missing {
                    transaction.execute_batch(migration)?;
                }
                transaction.pragma_update(None, "user_version", known)?;
            }
            transaction.commit()?;
            Ok(found)
        })?;
        if found > known {
            return Err(DatabaseError::Newer {
                path: self.path.clone(),
                found,
                known,
            });
        }
        Ok(())
    }

    /// Runs something on the connection, which may have to wait for others that write, here and in
    /// other processes: [`BUSY_TIMEOUT`] together, in which the runtime does other things.
    pub(crate) fn run<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let done = off_the_runtime(|| {
            let start = Instant::now();
            let mut connection = lock(&self.connection);
            connection.busy_timeout(BUSY_TIMEOUT.saturating_sub(start.elapsed()))?;
            let done = work(&mut connection);
            read_anew_if_damaged(&connection, &done);
            done
        });
        done.map_err(|source| self.failed(operation, source))
    }

    /// Looks something up, which waits for nobody who writes.
    pub(crate) fn look_up<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let connection = lock(&self.reader);
        let found = work(&connection);
        read_anew_if_damaged(&connection, &found);
        found.map_err(|source| self.failed(operation, source))
    }

    fn failed(&self, operation: &'static str, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A panic rolls its transaction back.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops what a connection has in memory of a damaged file, so that one that is mended serves again.
fn read_anew_if_damaged<T>(connection: &Connection, done: &rusqlite::Result<T>) {
    let fault = done.as_ref().err().and_then(|error| HostFault::of(error));
    if fault == Some(HostFault::DatabaseDamaged)
        && let Err(error) = connection.execute_batch("PRAGMA shrink_memory")
    {
        tracing::warn!(%error, "what is in memory of a damaged database stays");
    }
}

/// Does what may block. The runtime's other tasks go on meanwhile, where it has threads for them.
fn off_the_runtime<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is on the disk when it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

    use super::*;

    /// Bytes of a page of SQLite.
    const PAGE: usize = 4096;

    #[test]
    fn a_database_is_private_and_opened_again() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        drop(Database::open(&directory).unwrap());
        Database::open(&directory).unwrap();
        for (path, mode) in [
            (directory.clone(), 0o700),
            (directory.join("daemon.db"), 0o600),
        ] {
            let found = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{}", path.display());
        }
    }

    #[test]
    fn a_database_of_a_newer_program_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let database = Database::open(home.path()).unwrap();
        let newer = MIGRATIONS.len() + 1;
        let write =
            |connection: &mut Connection| connection.pragma_update(None, "user_version", newer);
        database.run("change", write).unwrap();
        drop(database);
        let error = Database::open(home.path()).unwrap_err();
        assert!(
            matches!(error, DatabaseError::Newer { found, .. } if found == newer),
            "{error}"
        );
    }

    #[test]
    fn one_daemon_alone_claims_a_database_whose_id_stays() {
        let home = tempfile::tempdir().unwrap();
        let database = Database::open(home.path()).unwrap();
        let claim = database.claim().unwrap();
        let again = Database::open(home.path()).unwrap();
        assert_eq!(database.owner(), again.owner());
        let refused = again.claim().unwrap_err();
        assert!(matches!(refused, DatabaseError::Taken(_)), "{refused}");
        drop(claim);
        drop(again.claim().unwrap());
        let other = tempfile::tempdir().unwrap();
        let other = Database::open(other.path()).unwrap();
        assert_ne!(database.owner(), other.owner());
    }

    /// Has another connection, as another process would, hold the lock of a database.
    fn locked(home: &Path) -> Connection {
        let other = Connection::open(home.join("daemon.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_waits_for_a_locked_database_holds_up_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let database = Database::open(home.path()).unwrap();
        let other = locked(home.path());
        let (began, begun) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::spawn({
            let database = database.clone();
            async move {
                // The next task of this one worker is the test.
                tokio::task::yield_now().await;
                drop(began);
                let delete = |on: &mut Connection| on.execute("DELETE FROM key", []);
                database.run("write", delete)
            }
        });
        drop(begun.await);
        let count: i64 = database
            .look_up("read", |on| {
                on.query_row("SELECT count(*) FROM key", [], |row| row.get(0))
            })
            .unwrap();
        assert_eq!(count, 0);
        // Opened again, as `ironclaw key list` does.
        Database::open(home.path()).unwrap();
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(writer.await.unwrap().unwrap(), 0);
    }

    #[test]
    fn a_database_that_is_mended_serves_again() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("daemon.db");
        // Closed once, so that all of it is in this file.
        drop(Database::open(home.path()).unwrap());
        let sound = fs::read(&path).unwrap();
        let database = Database::open(home.path()).unwrap();
        let count =
            |on: &Connection| on.query_row("SELECT count(*) FROM key", [], |row| row.get(0));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // All but the page with the schema, which is in memory.
        file.write_all_at(&vec![0xff; sound.len() - PAGE], PAGE as u64)
            .unwrap();
        let looked_up = || database.look_up("read", |on| count(on));
        let error = looked_up().map(|found: i64| found).unwrap_err();
        assert_eq!(HostFault::of(&error), Some(HostFault::DatabaseDamaged));
        let error = database.run("read", |on| count(on)).map(|found: i64| found);
        assert_eq!(
            HostFault::of(&error.unwrap_err()),
            Some(HostFault::DatabaseDamaged)
        );
        file.write_all_at(&sound, 0).unwrap();
        assert_eq!(looked_up().unwrap(), 0);
        assert_eq!(database.run("read", |on| count(on)).unwrap(), 0);
    }

    #[test]
    fn a_damaged_database_is_told_by_name_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("daemon.db");
        fs::write(
            &path,
            "no database at all, but long enough for a header of one",
        )
        .unwrap();
        let error = Database::open(home.path()).unwrap_err();
        assert!(error.to_string().contains("daemon.db"), "{error}");
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .starts_with("no database")
        );
    }
}
