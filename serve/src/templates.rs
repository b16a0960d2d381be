//! The templates that sandboxes are made of, each with a pool of its own.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ironclaw_orchestrator::template::recipe::Base;
use ironclaw_orchestrator::template::{TemplateChoice, TemplateHash, TemplateName, TemplateStore};
use ironclaw_orchestrator::vm::snapshot::SnapshotId;
use ironclaw_orchestrator::vm::{
    Config, GuestError, LaunchError, Launcher, Pool, PoolError, PoolOptions, Progress, VmClient,
};
use thiserror::Error;
use tokio::sync::{Mutex, OnceCell};

use crate::accounts::{self, Account};
use crate::memory::Memory;

/// Limit of a guest's `/etc/passwd`, in bytes.
const MAX_PASSWD: u64 = 1024 * 1024;

/// The user that commands run as if a template has it, as in E2B's own templates.
pub(crate) const USER: &str = "user";

/// The user of templates without that one.
pub(crate) const ROOT: &str = "root";

/// The template that E2B's clients take without a choice: the default one, unless one has this name.
const BASE: &str = "base";

/// What is asked for where no template is named: the default one, whatever its name is.
const DEFAULT: &str = "";

/// The templates of a daemon. Cheap to clone.
#[derive(Clone)]
pub struct Templates {
    config: Config,
    progress: Progress,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    pools: HashMap<TemplateHash, Arc<TemplatePool>>,
    /// Where each name led to last.
    names: HashMap<String, TemplateHash>,
    /// How many warm clones the pools of some names keep, in place of what the settings say.
    warm: HashMap<String, RangeInclusive<usize>>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Templates").finish_non_exhaustive()
    }
}

/// The reason why there is no sandbox of a template.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// There is no template of that name.
    #[error("there is no template {0:?}")]
    Unknown(String),
    /// The templates on disk can't be read.
    #[error("templates can't be looked up")]
    Store(#[from] ironclaw_orchestrator::template::TemplateError),
    /// Nothing can start it.
    #[error("a template can't be used")]
    Launch(#[from] LaunchError),
    /// Its pool can't be opened.
    #[error("the pool of a template can't be opened")]
    Pool(#[from] PoolError),
}

/// A template with its pool.
#[derive(Debug)]
pub(crate) struct TemplatePool {
    pub(crate) pool: Pool,
    /// Found in the first guest.
    user: OnceCell<Option<String>>,
    /// Whether it has bash, found likewise.
    bash: OnceCell<bool>,
}

impl Templates {
    /// Creates the templates of these settings; nothing is opened before it is asked for.
    #[must_use]
    pub fn new(config: Config, progress: Progress) -> Self {
        Self {
            config,
            progress,
            open: Arc::default(),
        }
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens the pool of a template, so that its first sandbox finds warm clones.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub async fn warm_up(&self, name: &str) -> Result<(), TemplateError> {
        Ok(self.named(name).await?.pool.warmup().await?)
    }

    /// Returns a template by its name. When the name leads to another template than before, new
    /// sandboxes are of that; the pool of the old one ends with its last sandbox.
    pub(crate) async fn named(&self, name: &str) -> Result<Arc<TemplatePool>, TemplateError> {
        let (choice, hash) = self.find(name)?;
        let mut open = self.open.lock().await;
        if let Some(pool) = hash.and_then(|hash| open.pools.get(&hash)) {
            return Ok(Arc::clone(pool));
        }
        let mut config = self.config.clone();
        config.template = choice;
        let launcher = Launcher::open(&config, Arc::clone(&self.progress)).await?;
        let hash = *launcher.template().hash();
        let pool = self.add(&mut open, launcher).await?;
        if let Some(warm) = open.warm.get(name)
            && let Err(error) = pool.pool.set_warm(warm.clone())
        {
            // Its guests are larger than those of the one before.
            tracing::warn!(%error, name, "the pool of a template keeps what the settings say");
        }
        if let Some(before) = open.names.insert(name.to_owned(), hash)
            && !open.names.values().any(|led| *led == before)
        {
            open.pools.remove(&before);
        }
        Ok(pool)
    }

    /// Has the pool of a template keep another number of warm clones, also that of the template which the
    /// name leads to later, until the daemon ends.
    pub(crate) async fn set_warm(
        &self,
        name: &str,
        warm: RangeInclusive<usize>,
    ) -> Result<Arc<TemplatePool>, TemplateError> {
        let template = self.named(name).await?;
        template.pool.set_warm(warm.clone())?;
        self.open.lock().await.warm.insert(name.to_owned(), warm);
        Ok(template)
    }

    /// Returns the pools that are open, each with the names that led to it last.
    pub(crate) async fn open(&self) -> Vec<(Vec<String>, Arc<TemplatePool>)> {
        let open = self.open.lock().await;
        let pools = open.pools.iter().map(|(hash, pool)| {
            let names = open.names.iter().filter(|(_, led)| *led == hash);
            let mut names: Vec<_> = names.map(|(name, _)| name.clone()).collect();
            names.sort();
            (names, Arc::clone(pool))
        });
        pools.collect()
    }

    /// Returns the template with this hash, whatever its names are by now.
    pub(crate) async fn hashed(
        &self,
        hash: &TemplateHash,
    ) -> Result<Arc<TemplatePool>, TemplateError> {
        let mut open = self.open.lock().await;
        if let Some(pool) = open.pools.get(hash) {
            return Ok(Arc::clone(pool));
        }
        let template = TemplateStore::open(&self.config.template_path)?.load(hash)?;
        let progress = Arc::clone(&self.progress);
        let launcher = Launcher::of(template, &self.config, progress).await?;
        self.add(&mut open, launcher).await
    }

    async fn add(
        &self,
        open: &mut Open,
        launcher: Launcher,
    ) -> Result<Arc<TemplatePool>, TemplateError> {
        let hash = *launcher.template().hash();
        if let Some(pool) = open.pools.get(&hash) {
            return Ok(Arc::clone(pool));
        }
        let template = Arc::new(TemplatePool {
            pool: Pool::open(launcher, PoolOptions::from(&self.config)).await?,
            user: OnceCell::new(),
            bash: OnceCell::new(),
        });
        open.pools.insert(hash, Arc::clone(&template));
        Ok(template)
    }

    /// Returns what a name stands for, and where it leads now. Reads two links.
    fn find(&self, text: &str) -> Result<(TemplateChoice, Option<TemplateHash>), TemplateError> {
        let store = TemplateStore::open(&self.config.template_path)?;
        let unknown = || TemplateError::Unknown(text.to_owned());
        if text != DEFAULT {
            let name: TemplateName = text.parse().map_err(|_| unknown())?;
            if let Some(hash) = store.named_hash(&name)? {
                return Ok((name.into(), Some(hash)));
            }
            if name.is_minimal() {
                return Ok((name.into(), None));
            }
            if text != BASE {
                return Err(unknown());
            }
        }
        let choice = self.config.template.clone();
        let hash = match &choice {
            TemplateChoice::Default => store.default_hash()?,
            TemplateChoice::Named(name) => store.named_hash(name)?,
            _ => None,
        };
        Ok((choice, hash))
    }

    /// Returns what a template of this name is, to be gone on from.
    pub(crate) fn base(&self, name: &str) -> Result<Base, TemplateError> {
        let (_, hash) = self.find(name)?;
        let Some(hash) = hash else {
            return Ok(Base::Minimal);
        };
        let template = TemplateStore::open(&self.config.template_path)?.load(&hash)?;
        Ok(match template.manifest().root_disk {
            Some(_) => Base::Template(hash),
            None => Base::Minimal,
        })
    }

    /// Closes the pools, with every VM of theirs.
    pub async fn close(&self) {
        for (_, template) in self.open.lock().await.pools.drain() {
            template.pool.clone().close_with_vms().await;
        }
    }
}

impl TemplatePool {
    /// Finds the checkpoint of one of its VMs, that was kept under `owner`.
    pub(crate) async fn memory(&self, id: &str, owner: &Arc<str>) -> Result<Memory, String> {
        let parsed: SnapshotId = id
            .parse()
            .map_err(|_| format!("{id:?} is no id of a checkpoint"))?;
        let launcher = self.pool.launcher().clone();
        let found = tokio::task::spawn_blocking(move || {
            let (store, requirements) = (launcher.snapshots(), launcher.requirements());
            let found = store.checkpoint(parsed, requirements);
            found.map(|snapshot| (snapshot, store.clone()))
        });
        let found = found.await.map_err(|error| error.to_string())?;
        let (snapshot, store) = found.map_err(|error| error.to_string())?;
        Ok(Memory::new(snapshot, store, Arc::clone(owner)))
    }

    /// Returns the user that commands run as if their client names none: the image's, or else the one that
    /// E2B's images have, or root. `None` where guests have no users, as those of a kernel that was imported
    /// may.
    pub(crate) async fn user(&self, vm: &VmClient) -> Result<Option<&str>, GuestError> {
        let find = || async {
            let origin = self
                .pool
                .launcher()
                .template()
                .manifest()
                .root_origin
                .as_ref();
            let of_image = origin.map(|origin| origin.config.user.as_str());
            if let Some(user) = of_image.filter(|user| !user.is_empty()) {
                return Ok::<_, GuestError>(Some(user.to_owned()));
            }
            let passwd = passwd(vm).await?;
            let user = match accounts::find(&passwd, USER) {
                Some(_) => Some(USER),
                None if passwd.is_empty() => None,
                None => Some(ROOT),
            };
            Ok(user.map(str::to_owned))
        };
        Ok(self.user.get_or_try_init(find).await?.as_deref())
    }

    /// Returns whether its guests have bash.
    pub(crate) async fn has_bash(&self, vm: &VmClient) -> Result<bool, GuestError> {
        let find = || async {
            match vm.files().metadata("/bin/bash").await {
                Ok(_) => Ok(true),
                Err(GuestError::Failed { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.bash.get_or_try_init(find).await.copied()
    }
}

/// Returns a user of a guest.
pub(crate) async fn account(vm: &VmClient, user: &str) -> Result<Option<Account>, GuestError> {
    Ok(accounts::find(&passwd(vm).await?, user))
}

async fn passwd(vm: &VmClient) -> Result<String, GuestError> {
    match vm.files().read("/etc/passwd", MAX_PASSWD).await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // Without one, there is root alone.
        Err(GuestError::Failed { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}
