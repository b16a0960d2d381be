//! The sandboxes of a daemon, by id.

mod deadline;
mod handover;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use crate::checkpoints::Checkpoints;
use crate::database::Database;
use crate::idempotency::IdempotencyKeys;
use crate::memory::Memory;
use crate::new_sandbox::NewSandbox;
use crate::paused_sandboxes::PausedSandboxes;
use crate::port_access::PortAccess;
use crate::record::Record;
use crate::sandbox::{Live, Sandbox, SandboxError, spawn_options};
use crate::sandbox_id::SandboxId;
use crate::secret::Secret;
use crate::templates::{TemplatePool, Templates};

/// Time that a request which resumes a sandbox adds to its deadline.
const LIFETIME_ON_USE: Duration = Duration::from_secs(300);

/// The sandboxes of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    templates: Templates,
    checkpoints: Checkpoints,
    paused: PausedSandboxes,
    database: Database,
    limit: usize,
    table: Mutex<Table>,
    repeated: IdempotencyKeys,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<SandboxId, Arc<Sandbox>>,
    /// Those that are being made.
    coming: usize,
    /// The daemon is ending.
    draining: bool,
    /// An operator wants no new ones.
    refusing: bool,
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
            checkpoints: Checkpoints::new(database.clone()),
            paused: PausedSandboxes::of(&database),
            database,
            limit,
            table: Mutex::default(),
            repeated: IdempotencyKeys::default(),
        }))
    }

    /// Returns the templates that they are made of.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.0.templates
    }

    /// Returns how many there may be.
    pub(crate) fn limit(&self) -> usize {
        self.0.limit
    }

    /// Returns whether new ones are refused.
    pub(crate) fn is_draining(&self) -> bool {
        let table = self.0.lock();
        table.draining || table.refusing
    }

    /// Makes no more of them, until [`take_new`](Self::take_new).
    pub(crate) fn refuse_new(&self) {
        self.0.lock().refusing = true;
    }

    /// Makes them again.
    pub(crate) fn take_new(&self) {
        self.0.lock().refusing = false;
    }

    /// Returns the directory where the daemon keeps what is its own.
    pub(crate) fn state_directory(&self) -> &Path {
        self.0.database.directory()
    }

    /// Returns the states of sandboxes that were kept for others.
    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.0.checkpoints
    }

    /// Makes a sandbox for the holder of a key, of a template or a checkpoint. The same request again,
    /// as its key tells, gets the same sandbox while that is there.
    pub(crate) async fn create(
        &self,
        new: NewSandbox,
        by: &str,
    ) -> Result<Arc<Sandbox>, SandboxError> {
        new.check()?;
        let Some(key) = new.idempotency_key.clone() else {
            return self.make(new, by).await;
        };
        let _alone = self.0.repeated.lock(by, &key).await;
        let made = |sandbox: &Sandbox| {
            let record = &sandbox.record;
            record.owner == by && record.idempotency_key.as_deref() == Some(&key)
        };
        match self.find(made) {
            Some(sandbox) if sandbox.record.request_hash != new.request_hash => {
                Err(SandboxError::KeyReused(sandbox.id.clone()))
            }
            Some(sandbox) => Ok(sandbox),
            None => self.make(new, by).await,
        }
    }

    async fn make(&self, new: NewSandbox, by: &str) -> Result<Arc<Sandbox>, SandboxError> {
        let inner = &*self.0;
        let _coming = self.make_room()?;
        let mut env = new.env;
        let (template, from) = match inner.checkpoints.find(&new.template) {
            Some(checkpoint) => {
                for (name, value) in &checkpoint.record.env {
                    env.entry(name.clone()).or_insert_with(|| value.clone());
                }
                let template = Arc::clone(&checkpoint.template);
                (template, Some(checkpoint.memory.clone()))
            }
            None => (inner.templates.named(&new.template).await?, None),
        };
        let record = Record {
            template: new.template,
            template_hash: *template.pool.launcher().template().hash(),
            metadata: new.metadata,
            env,
            expiry: new.expiry,
            resume_on_use: new.resume_on_use,
            owner: by.to_owned(),
            started: SystemTime::now(),
            idempotency_key: new.idempotency_key,
            request_hash: new.request_hash,
            name: new.name,
            user: new.user,
            idle_limit: new.idle_limit,
            ports: PortAccess {
                token: new.private_ports.then(draw).transpose()?,
                host: new.told_host,
            },
            token: draw()?,
        };
        self.begin(record, template, from, new.lifetime).await
    }

    /// Makes copies of a sandbox that runs, each with what runs in it, an id and secrets of its own.
    pub(crate) async fn fork(
        &self,
        sandbox: &Sandbox,
        count: usize,
        lifetime: Duration,
        by: &str,
    ) -> Result<Vec<Result<Arc<Sandbox>, SandboxError>>, SandboxError> {
        let memory = sandbox.checkpoint(self.0.database.owner()).await?;
        memory.give_up();
        let one = async || {
            let _coming = self.make_room()?;
            let before = &sandbox.record;
            let record = Record {
                owner: by.to_owned(),
                started: SystemTime::now(),
                idempotency_key: None,
                request_hash: None,
                ports: PortAccess {
                    token: before.ports.token.as_ref().map(|_| draw()).transpose()?,
                    host: before.ports.host.clone(),
                },
                token: draw()?,
                ..before.clone()
            };
            let template = Arc::clone(&sandbox.template);
            self.begin(record, template, Some(memory.clone()), lifetime)
                .await
        };
        let forks = join_all((0..count).map(|_| one())).await;
        memory.leave().await;
        Ok(forks)
    }

    async fn begin(
        &self,
        record: Record,
        template: Arc<TemplatePool>,
        from: Option<Memory>,
        lifetime: Duration,
    ) -> Result<Arc<Sandbox>, SandboxError> {
        let id = SandboxId::draw().map_err(random)?;
        let options = spawn_options(&id, &record);
        let spawned = match &from {
            Some(memory) => template.pool.fork(memory.snapshot(), options).await,
            None => template.pool.spawn_with(options).await,
        };
        match spawned {
            Ok(vm) => self.add(Sandbox::running(id, record, template, vm, from, lifetime)),
            Err(error) => {
                if let Some(memory) = from {
                    memory.leave().await;
                }
                Err(error.into())
            }
        }
    }

    fn make_room(&self) -> Result<Coming<'_>, SandboxError> {
        let mut table = self.0.lock();
        if table.draining {
            return Err(SandboxError::Draining);
        }
        if table.refusing {
            return Err(SandboxError::Refused);
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
    pub(crate) async fn live(&self, sandbox: &Arc<Sandbox>) -> Result<Live, SandboxError> {
        match sandbox.live().await {
            Err(SandboxError::Paused) if sandbox.record.resume_on_use => {
                self.resume(sandbox, LIFETIME_ON_USE).await?;
                sandbox.live().await
            }
            other => other,
        }
    }

    /// Pauses a sandbox; returns whether it ran.
    pub(crate) async fn pause(&self, sandbox: &Arc<Sandbox>) -> Result<bool, SandboxError> {
        let (paused, sandbox) = (self.0.paused.clone(), Arc::clone(sandbox));
        to_the_end(async move { sandbox.pause(&paused, None).await }).await
    }

    /// Goes on with a paused sandbox; returns whether it was paused. One that runs gets a later deadline.
    pub(crate) async fn resume(
        &self,
        sandbox: &Arc<Sandbox>,
        lifetime: Duration,
    ) -> Result<bool, SandboxError> {
        let (paused, sandbox) = (self.0.paused.clone(), Arc::clone(sandbox));
        to_the_end(async move { sandbox.resume(&paused, lifetime).await }).await
    }

    /// Ends a sandbox; returns whether it was there.
    pub(crate) async fn kill(&self, sandbox: &Arc<Sandbox>) -> Result<bool, SandboxError> {
        let (this, sandbox) = (self.clone(), Arc::clone(sandbox));
        to_the_end(async move {
            let is_gone = || this.remove(&sandbox.id);
            sandbox.kill(&this.0.paused, is_gone).await
        })
        .await
    }

    fn remove(&self, id: &SandboxId) {
        self.0.lock().by_id.remove(id);
    }
}

/// Does all of a change, also when the client that asked for it goes away in its middle.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, SandboxError>> + Send + 'static,
) -> Result<T, SandboxError> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime shuts down.
        Err(_) => Err(SandboxError::Draining),
    }
}

fn draw() -> Result<Secret, SandboxError> {
    Secret::draw().map_err(random)
}

fn random(error: getrandom::Error) -> SandboxError {
    SandboxError::Random(error.to_string())
}
