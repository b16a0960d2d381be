//! States of sandboxes that were kept for others to begin from: E2B's snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ironclaw_orchestrator::template::{TemplateHash, TemplateName};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::database::{Database, DatabaseError};
use crate::memory::Memory;
use crate::sandbox::{Sandbox, SandboxError};
use crate::sandbox_id::draw_text;
use crate::templates::{TemplatePool, Templates};

/// Begins the id of a checkpoint, and no id of a sandbox.
const PREFIX: char = 's';

/// The id of a checkpoint, as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CheckpointId(String);

impl CheckpointId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckpointRecord {
    /// The name under which it is found, until another one gets it.
    pub(crate) name: Option<String>,
    /// The sandbox that it is of.
    pub(crate) sandbox: String,
    /// Where the sandbox's template led.
    pub(crate) template_hash: TemplateHash,
    /// Variables of the sandbox's commands.
    pub(crate) env: BTreeMap<String, String>,
    /// Who made it: the name of a key.
    pub(crate) owner: String,
    pub(crate) created: SystemTime,
}

/// A checkpoint.
#[derive(Debug)]
pub(crate) struct SandboxCheckpoint {
    pub(crate) id: CheckpointId,
    pub(crate) record: CheckpointRecord,
    pub(crate) template: Arc<TemplatePool>,
    pub(crate) memory: Memory,
}

/// The checkpoints of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    database: Database,
    table: Arc<Mutex<Vec<Arc<SandboxCheckpoint>>>>,
}

impl Checkpoints {
    /// Creates a table without checkpoints; [`take_up`](Self::take_up) has those of the last daemon.
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            table: Arc::default(),
        }
    }

    /// Keeps the state of a sandbox that runs, and goes on. One that had the name before is found by
    /// its id alone afterwards.
    pub(crate) async fn add(
        &self,
        sandbox: &Sandbox,
        name: Option<&TemplateName>,
        by: &str,
    ) -> Result<Arc<SandboxCheckpoint>, SandboxError> {
        let random = |error: getrandom::Error| SandboxError::Random(error.to_string());
        let id = CheckpointId(draw_text(PREFIX).map_err(random)?);
        let memory = sandbox.checkpoint(self.database.owner()).await?;
        let record = CheckpointRecord {
            name: name.map(|name| name.as_str().to_owned()),
            sandbox: sandbox.id.to_string(),
            template_hash: sandbox.record.template_hash,
            env: sandbox.record.env.clone(),
            owner: by.to_owned(),
            created: SystemTime::now(),
        };
        if let Err(error) = self.write(&id, &memory, &record) {
            memory.give_up();
            memory.leave().await;
            return Err(error.into());
        }
        let checkpoint = Arc::new(SandboxCheckpoint {
            id,
            record,
            template: Arc::clone(&sandbox.template),
            memory,
        });
        self.lock().push(Arc::clone(&checkpoint));
        Ok(checkpoint)
    }

    /// Finds one by its id, or the newest one by its name.
    pub(crate) fn find(&self, text: &str) -> Option<Arc<SandboxCheckpoint>> {
        let table = self.lock();
        let by_name = |one: &&Arc<SandboxCheckpoint>| one.record.name.as_deref() == Some(text);
        let by_id = table.iter().find(|one| one.id.as_str() == text);
        by_id.or_else(|| table.iter().rev().find(by_name)).cloned()
    }

    /// Lists all, the newest first, each with whether its name leads to it.
    pub(crate) fn list(&self) -> Vec<(Arc<SandboxCheckpoint>, bool)> {
        let mut all = self.lock().clone();
        all.sort_by(|a, b| (b.record.created, &b.id).cmp(&(a.record.created, &a.id)));
        let mut names = BTreeSet::new();
        all.into_iter()
            .map(|one| {
                let is_newest = (one.record.name.clone()).is_some_and(|name| names.insert(name));
                (one, is_newest)
            })
            .collect()
    }

    /// Deletes one; sandboxes that began from it go on. Returns whether it was there.
    pub(crate) async fn remove(&self, text: &str) -> Result<bool, DatabaseError> {
        let Some(found) = self.find(text) else {
            return Ok(false);
        };
        let delete = |connection: &mut rusqlite::Connection| {
            let query = "DELETE FROM sandbox_checkpoint WHERE id = ?1";
            connection.execute(query, [found.id.as_str()])
        };
        self.database.run("remove a checkpoint from", delete)?;
        let taken = {
            let mut table = self.lock();
            let index = table.iter().position(|one| one.id == found.id);
            index.map(|index| table.remove(index))
        };
        if taken.is_none() {
            return Ok(false);
        }
        found.memory.give_up();
        let memory = found.memory.clone();
        drop((found, taken));
        memory.leave().await;
        Ok(true)
    }

    /// Takes up those of the last daemon. What can't be taken up stays in the database, and is told.
    pub(crate) async fn take_up(&self, templates: &Templates) -> Result<(), DatabaseError> {
        let rows = self.database.run("list the checkpoints of", |connection| {
            let query = "SELECT id, snapshot, record FROM sandbox_checkpoint ORDER BY rowid";
            let mut query = connection.prepare(query)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String, String)>>>()
        })?;
        for (id, snapshot, record) in rows {
            match self.read(&id, &snapshot, &record, templates).await {
                Ok(checkpoint) => self.lock().push(Arc::new(checkpoint)),
                Err(reason) => {
                    tracing::error!(checkpoint = id, reason, "a checkpoint can't be taken up");
                }
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        id: &str,
        snapshot: &str,
        record: &str,
        templates: &Templates,
    ) -> Result<SandboxCheckpoint, String> {
        let record: CheckpointRecord =
            serde_json::from_str(record).map_err(|error| error.to_string())?;
        let template = templates.hashed(&record.template_hash).await;
        let template = template.map_err(|error| error.to_string())?;
        let owner = self.database.owner();
        Ok(SandboxCheckpoint {
            id: CheckpointId(id.to_owned()),
            memory: template.memory(snapshot, owner).await?,
            record,
            template,
        })
    }

    fn write(
        &self,
        id: &CheckpointId,
        memory: &Memory,
        record: &CheckpointRecord,
    ) -> Result<(), DatabaseError> {
        // Maps with texts as keys, numbers and texts: they have a JSON.
        let record = serde_json::to_string(record).unwrap_or_default();
        let snapshot = memory.id().to_string();
        let write = |connection: &mut rusqlite::Connection| {
            connection.execute(
                "INSERT INTO sandbox_checkpoint (id, snapshot, record) VALUES (?1, ?2, ?3)",
                params![id.as_str(), snapshot, record],
            )
        };
        let written = self.database.run("keep a checkpoint in", write);
        written.map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<SandboxCheckpoint>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
