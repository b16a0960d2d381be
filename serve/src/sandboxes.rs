//! The sandboxes of a daemon, by id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::snapshot::{Snapshot, SnapshotId};
use ironclaw_orchestrator::vm::{SpawnOptions, dropped_vms_ended};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::database::{Database, DatabaseError};
use crate::sandbox::{Expiry, Live, NewSandbox, Paused, Record, Sandbox, SandboxError, State};
use crate::sandbox_id::SandboxId;
use crate::secret::Secret;
use crate::templates::Templates;

/// Time that a request which resumes a sandbox adds to its deadline.
const LIFETIME_ON_USE: Duration = Duration::from_secs(300);

/// The sandboxes of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    templates: Templates,
    database: Database,
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<SandboxId, Arc<Sandbox>>,
    /// Those that are being made.
    coming: usize,
    draining: bool,
}

/// What the database has of a paused sandbox.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    record: Record,
    since: SystemTime,
    /// The time that it had left when the daemon ended, if it ran then.
    left: Option<Duration>,
}

/// Room for a sandbox that is being made.
struct Coming<'a>(&'a Inner);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.lock().coming -= 1;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandboxes {
    /// Creates the table of sandboxes, `limit` at most.
    #[must_use]
    pub fn new(templates: Templates, database: Database, limit: usize) -> Self {
        Self(Arc::new(Inner {
            templates,
            database,
            limit,
            table: Mutex::default(),
        }))
    }

    /// Returns the templates that they are made of.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.0.templates
    }

    /// Makes a sandbox for the holder of a key.
    pub(crate) async fn create(
        &self,
        new: NewSandbox,
        by: &str,
    ) -> Result<Arc<Sandbox>, SandboxError> {
        let inner = &*self.0;
        let _coming = self.make_room()?;
        let random = |error: getrandom::Error| SandboxError::Random(error.to_string());
        let id = SandboxId::draw().map_err(random)?;
        let template = inner.templates.named(&new.template).await?;
        let record = Record {
            template: new.template,
            template_hash: *template.pool.launcher().template().hash(),
            metadata: new.metadata,
            env: new.env,
            expiry: new.expiry,
            resume_on_use: new.resume_on_use,
            owner: by.to_owned(),
            started: SystemTime::now(),
            token: Secret::draw().map_err(random)?,
        };
        let vm = template
            .pool
            .spawn_with(SpawnOptions::named(id.as_str()))
            .await?;
        let sandbox = Sandbox::running(id, record, template, vm, new.lifetime);
        self.add(sandbox)
    }

    fn make_room(&self) -> Result<Coming<'_>, SandboxError> {
        let mut table = self.0.lock();
        if table.draining {
            return Err(SandboxError::Draining);
        }
        if table.by_id.len() + table.coming >= self.0.limit {
            return Err(SandboxError::TooMany(self.0.limit));
        }
        table.coming += 1;
        Ok(Coming(&self.0))
    }

    fn add(&self, sandbox: Sandbox) -> Result<Arc<Sandbox>, SandboxError> {
        let sandbox = Arc::new(sandbox);
        let mut table = self.0.lock();
        if table.draining {
            return Err(SandboxError::Draining);
        }
        match table.by_id.entry(sandbox.id.clone()) {
            Entry::Vacant(place) => place.insert(Arc::clone(&sandbox)),
            // Two of 2^100: the random generator is broken.
            Entry::Occupied(_) => {
                return Err(SandboxError::Random("an id was drawn twice".to_owned()));
            }
        };
        drop(table);
        tokio::spawn(self.clone().watch(Arc::clone(&sandbox)));
        Ok(sandbox)
    }

    /// Finds a sandbox.
    pub(crate) fn get(&self, id: &SandboxId) -> Result<Arc<Sandbox>, SandboxError> {
        let found = self.0.lock().by_id.get(id).cloned();
        found.ok_or(SandboxError::Gone)
    }

    /// Finds a sandbox by what it has.
    pub(crate) fn find(&self, has: impl Fn(&Sandbox) -> bool) -> Option<Arc<Sandbox>> {
        let table = self.0.lock();
        table.by_id.values().find(|sandbox| has(sandbox)).cloned()
    }

    /// Lists all, the newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Sandbox>> {
        let mut all: Vec<_> = self.0.lock().by_id.values().cloned().collect();
        all.sort_by(|a, b| (b.record.started, &b.id).cmp(&(a.record.started, &a.id)));
        all
    }

    /// Returns a sandbox that runs, for a request to its guest; resumes it if it wants that.
    pub(crate) async fn live(&self, sandbox: &Sandbox) -> Result<Live, SandboxError> {
        match sandbox.live().await {
            Err(SandboxError::Paused) if sandbox.record.resume_on_use => {
                self.resume(sandbox, LIFETIME_ON_USE).await?;
                sandbox.live().await
            }
            other => other,
        }
    }

    /// Pauses a sandbox; returns whether it ran.
    pub(crate) async fn pause(&self, sandbox: &Sandbox) -> Result<bool, SandboxError> {
        self.pause_with(sandbox, None).await
    }

    async fn pause_with(
        &self,
        sandbox: &Sandbox,
        left: Option<Duration>,
    ) -> Result<bool, SandboxError> {
        match sandbox.pause().await? {
            Paused::Before => Ok(false),
            Paused::Now(checkpoint) => {
                self.keep(sandbox, &checkpoint, left)?;
                Ok(true)
            }
        }
    }

    /// Goes on with a paused sandbox; returns whether it was paused.
    pub(crate) async fn resume(
        &self,
        sandbox: &Sandbox,
        lifetime: Duration,
    ) -> Result<bool, SandboxError> {
        let resumed = sandbox.resume(lifetime).await?;
        if resumed {
            self.forget(&sandbox.id)?;
        }
        Ok(resumed)
    }

    /// Ends a sandbox; returns whether it was there.
    pub(crate) async fn kill(&self, sandbox: &Sandbox) -> Result<bool, SandboxError> {
        let there = self.0.lock().by_id.remove(&sandbox.id).is_some();
        self.forget(&sandbox.id)?;
        sandbox.kill().await;
        Ok(there)
    }

    /// Ends a sandbox or pauses it at its deadline, and forgets it when its VM ended.
    async fn watch(self, sandbox: Arc<Sandbox>) {
        loop {
            let expires = async {
                match sandbox.deadline() {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                () = sandbox.changed.notified() => Ok(()),
                () = expires => self.expire(&sandbox).await,
                () = sandbox.ended() => {
                    tracing::info!(sandbox = %sandbox.id, "the VM of a sandbox has ended");
                    self.kill(&sandbox).await.map(drop)
                }
            };
            if let Err(error) = done {
                tracing::warn!(sandbox = %sandbox.id, %error, "a sandbox is killed");
                if let Err(error) = self.kill(&sandbox).await {
                    tracing::error!(sandbox = %sandbox.id, %error, "a sandbox may come back");
                }
            }
            if self.get(&sandbox.id).is_err() {
                return;
            }
        }
    }

    async fn expire(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        // It may have got more time meanwhile.
        if sandbox.deadline().is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        match sandbox.record.expiry {
            Expiry::Kill => self.kill(sandbox).await.map(drop),
            Expiry::Pause => self.pause(sandbox).await.map(drop),
        }
    }

    fn keep(
        &self,
        sandbox: &Sandbox,
        checkpoint: &Snapshot,
        left: Option<Duration>,
    ) -> Result<(), DatabaseError> {
        let kept = Kept {
            record: sandbox.record.clone(),
            since: sandbox.status().end,
            left,
        };
        // Maps with texts as keys, numbers and texts: they have a JSON.
        let record = serde_json::to_string(&kept).unwrap_or_default();
        let (id, checkpoint) = (sandbox.id.as_str(), checkpoint.id().to_string());
        let write = |connection: &mut rusqlite::Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO paused_sandbox (id, checkpoint, record) VALUES (?1, ?2, ?3)",
                params![id, checkpoint, record],
            )
        };
        self.0.database.run("keep a sandbox in", write).map(drop)
    }

    fn forget(&self, id: &SandboxId) -> Result<(), DatabaseError> {
        let delete = |connection: &mut rusqlite::Connection| {
            connection.execute("DELETE FROM paused_sandbox WHERE id = ?1", [id.as_str()])
        };
        let deleted = self.0.database.run("remove a sandbox from", delete);
        deleted.map(drop)
    }

    /// Takes up the sandboxes that were paused when the last daemon ended, and goes on with those that
    /// ran then. Returns how many there are. What can't be taken up stays in the database, and is told.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn take_up(&self) -> Result<usize, DatabaseError> {
        let rows = self.0.database.run("list the sandboxes of", |connection| {
            let mut query =
                connection.prepare("SELECT id, checkpoint, record FROM paused_sandbox")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String, String)>>>()
        })?;
        let mut count = 0;
        for (id, checkpoint, record) in rows {
            match self.take_up_one(&id, &checkpoint, &record).await {
                Ok(()) => count += 1,
                Err(reason) => {
                    tracing::error!(sandbox = id, reason, "a paused sandbox can't be taken up");
                }
            }
        }
        Ok(count)
    }

    async fn take_up_one(&self, id: &str, checkpoint: &str, record: &str) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let id: SandboxId = id.parse().map_err(|error| text(&error))?;
        let kept: Kept = serde_json::from_str(record).map_err(|error| text(&error))?;
        let checkpoint: SnapshotId = checkpoint
            .parse()
            .map_err(|_| format!("{checkpoint:?} is no id of a checkpoint"))?;
        let template = self.0.templates.hashed(&kept.record.template_hash);
        let template = template.await.map_err(|error| text(&error))?;
        let launcher = template.pool.launcher().clone();
        let found = tokio::task::spawn_blocking(move || {
            let requirements = launcher.requirements();
            launcher.snapshots().checkpoint(checkpoint, requirements)
        });
        let checkpoint = found
            .await
            .map_err(|error| text(&error))?
            .map_err(|error| text(&error))?;
        let Kept {
            record,
            since,
            left,
        } = kept;
        let sandbox = Sandbox::paused(id, record, template, checkpoint, since);
        let sandbox = self.add(sandbox).map_err(|error| text(&error))?;
        if let Some(left) = left {
            let resumed = self.resume(&sandbox, left).await;
            resumed.map_err(|error| text(&error))?;
        }
        Ok(())
    }

    /// Pauses all that runs, so that the next daemon goes on with it; takes no more.
    pub async fn drain(&self) {
        let all = {
            let mut table = self.0.lock();
            table.draining = true;
            table.by_id.values().cloned().collect::<Vec<_>>()
        };
        for sandbox in all {
            let status = sandbox.status();
            if status.state == State::Paused {
                continue;
            }
            let left = status.end.duration_since(SystemTime::now());
            let left = left.unwrap_or(Duration::ZERO);
            match self.pause_with(&sandbox, Some(left)).await {
                Ok(_) => tracing::info!(sandbox = %sandbox.id, "kept for the next daemon"),
                Err(error) => {
                    tracing::error!(sandbox = %sandbox.id, %error, "a sandbox is lost");
                }
            }
        }
        self.0.templates.close().await;
        dropped_vms_ended().await;
    }
}
