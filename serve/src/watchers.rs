//! Watches over files of a sandbox whose clients ask now and then for what happened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ironclaw_orchestrator::vm::FileWatch;

/// Watches of a sandbox at a time. The one whose client has not asked for the longest time gives way: a
/// client that is gone does not say so. A guest has some more, for clients that listen.
const MAX_WATCHERS: usize = 48;

/// What the client of a watch wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The directory.
    pub(crate) root: PathBuf,
    pub(crate) user: String,
    /// Whether it wants to know more of what is there.
    pub(crate) with_entries: bool,
}

/// A watch, which one at a time may ask.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) watch: tokio::sync::Mutex<FileWatch>,
    /// What its client wants.
    pub(crate) wanted: Wanted,
}

/// The watches of a sandbox that runs.
#[derive(Debug)]
pub(crate) struct Watchers(Mutex<Table>);

#[derive(Debug)]
struct Table {
    /// By number, with the time of the last question.
    all: BTreeMap<u64, (u64, Arc<Watcher>)>,
    made: u64,
    asked: u64,
}

impl Default for Watchers {
    fn default() -> Self {
        Self(Mutex::new(Table {
            all: BTreeMap::new(),
            made: 0,
            asked: 0,
        }))
    }
}

impl Watchers {
    /// Adds a watch; returns its id.
    pub(crate) fn add(&self, watch: FileWatch, wanted: Wanted) -> String {
        let mut table = self.lock();
        if table.all.len() >= MAX_WATCHERS {
            let oldest = table.all.iter().min_by_key(|(_, (asked, _))| *asked);
            if let Some(oldest) = oldest.map(|(&number, _)| number) {
                table.all.remove(&oldest);
            }
        }
        table.made += 1;
        table.asked += 1;
        let (number, asked) = (table.made, table.asked);
        let watch = tokio::sync::Mutex::new(watch);
        let watcher = Arc::new(Watcher { watch, wanted });
        table.all.insert(number, (asked, watcher));
        format!("w{number}")
    }

    /// Finds a watch by its id.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Watcher>> {
        let mut table = self.lock();
        table.asked += 1;
        let now = table.asked;
        let (asked, watcher) = table.all.get_mut(&number(id)?)?;
        *asked = now;
        Some(Arc::clone(watcher))
    }

    /// Ends a watch; returns whether there was one.
    pub(crate) fn remove(&self, id: &str) -> bool {
        number(id).is_some_and(|number| self.lock().all.remove(&number).is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix('w')?.parse().ok()
}
