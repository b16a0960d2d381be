//! What to soak, and for how long.

use std::ffi::OsString;
use std::time::Duration;

use tokio::time::Instant;

use super::work::Until;

/// The default duration.
const DEFAULT_TIME: Duration = Duration::from_secs(60);
/// Interval of progress on a terminal.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// The options of a soak.
#[derive(Debug, Clone)]
pub struct Options {
    /// The duration; a minute if neither this nor `spawns` is given.
    pub time: Option<Duration>,
    /// Number of spawns after which it ends, if not before.
    pub spawns: Option<u64>,
    /// Spawns at a time.
    pub concurrency: u16,
    /// Whether to inject faults.
    pub faults: bool,
    /// The seed of random choices, to repeat those of an earlier run.
    pub seed: Option<u64>,
    /// A daemon is soaked, by its API, instead of a pool of this process: with the settings of this
    /// process's command line, `KEY=VALUE`.
    pub daemon: Option<Vec<OsString>>,
}

impl Options {
    /// Returns when a soak of these options ends.
    pub(super) fn until(&self) -> Until {
        let time = match (self.time, self.spawns) {
            (None, None) => Some(DEFAULT_TIME),
            (time, _) => time,
        };
        Until {
            deadline: time.map(|time| Instant::now() + time),
            spawns: self.spawns,
        }
    }
}
