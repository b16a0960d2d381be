//! What the database has of paused sandboxes: the next daemon goes on from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::VmIdentity;
use ironclaw_orchestrator::vm::snapshot::SnapshotId;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::causes::causes;
use crate::database::{Database, DatabaseError};
use crate::record::Record;
use crate::sandbox_id::SandboxId;

/// What is kept of a paused sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(flatten)]
    pub(crate) record: Record,
    pub(crate) since: SystemTime,
    /// The time that it had left when the daemon ended, if it ran then.
    pub(crate) left: Option<Duration>,
    /// By what its guest knows itself.
    pub(crate) identity: Option<VmIdentity>,
}

/// A row as it was read, which may be damaged.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) checkpoint: String,
    /// A [`Kept`].
    pub(crate) record: String,
}

/// The paused sandboxes of a database. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PausedSandboxes {
    database: Database,
    /// Those that are gone, and could not be removed.
    gone: Arc<Mutex<Vec<SandboxId>>>,
}

impl PausedSandboxes {
    pub(crate) fn of(database: &Database) -> Self {
        Self {
            database: database.clone(),
            gone: Arc::default(),
        }
    }

    /// Returns the name under which their memory is kept in the store of snapshots.
    pub(crate) fn owner(&self) -> &Arc<str> {
        self.database.owner()
    }

    /// Keeps one, whose memory is this checkpoint.
    pub(crate) fn keep(
        &self,
        id: &SandboxId,
        memory: SnapshotId,
        kept: &Kept,
    ) -> Result<(), DatabaseError> {
        // Maps with texts as keys, numbers and texts: they have a JSON.
        let record = serde_json::to_string(kept).unwrap_or_default();
        let checkpoint = memory.to_string();
        let write = |connection: &mut rusqlite::Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO paused_sandbox (id, checkpoint, record) VALUES (?1, ?2, ?3)",
                params![id.as_str(), checkpoint, record],
            )
        };
        self.database.run("keep a sandbox in", write)?;
        self.forget_the_gone();
        Ok(())
    }

    /// Removes one.
    pub(crate) fn forget(&self, id: &SandboxId) -> Result<(), DatabaseError> {
        self.delete(id)?;
        self.forget_the_gone();
        Ok(())
    }

    /// Removes one that is gone, as soon as something can be written.
    pub(crate) fn forget_later(&self, id: SandboxId) {
        self.lock().push(id);
        self.forget_the_gone();
    }

    /// Removes those that could not be removed before, as far as something can be written.
    pub(crate) fn forget_the_gone(&self) {
        let mut gone = self.lock();
        while let Some(id) = gone.pop() {
            if let Err(error) = self.delete(&id) {
                tracing::warn!(sandbox = %id, error = causes(&error), "the database still has a killed sandbox");
                gone.push(id);
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SandboxId>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete(&self, id: &SandboxId) -> Result<(), DatabaseError> {
        let delete = |connection: &mut rusqlite::Connection| {
            connection.execute("DELETE FROM paused_sandbox WHERE id = ?1", [id.as_str()])
        };
        let deleted = self.database.run("remove a sandbox from", delete);
        deleted.map(drop)
    }

    /// Lists all.
    pub(crate) fn list(&self) -> Result<Vec<Row>, DatabaseError> {
        self.database.run("list the sandboxes of", |connection| {
            let mut query =
                connection.prepare("SELECT id, checkpoint, record FROM paused_sandbox")?;
            let rows = query.query_map([], |row| {
                Ok(Row {
                    id: row.get(0)?,
                    checkpoint: row.get(1)?,
                    record: row.get(2)?,
                })
            })?;
            rows.collect()
        })
    }
}
