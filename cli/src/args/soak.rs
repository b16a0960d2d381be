//! The options of `ironclaw soak`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use ironclaw_bench::soak;

use super::assignment::assignments;
use crate::help;
use ironclaw_console::value::time_limit;

#[derive(Debug, Args)]
#[command(after_help = help::SOAK_EXAMPLES)]
pub(crate) struct Soak {
    /// How long: 30s, 10m, 8h. Without it and --spawns, 1m.
    #[arg(long = "for", value_name = "TIME", value_parser = time_limit)]
    pub(crate) time: Option<Duration>,
    /// Stop after this many spawns; with --for, whichever comes first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) spawns: Option<u64>,
    /// Spawns at a time, 1 to 200.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) concurrency: u16,
    /// Kill VMMs, damage snapshots, fill the disk and let the pool's clock jump meanwhile.
    #[arg(long)]
    pub(crate) faults: bool,
    /// Use a daemon of its own, by its API, instead of a pool: with --faults, it is restarted and killed,
    /// its VMMs are, its database is locked and its disk filled.
    #[arg(long)]
    pub(crate) api: bool,
    /// Choose as the run did that printed this seed. What happens at the same time as what still
    /// differs.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

impl Soak {
    /// Returns the options, with these settings of the command line for a daemon.
    pub(crate) fn options(self, set: &[(String, OsString)]) -> soak::Options {
        soak::Options {
            time: self.time,
            spawns: self.spawns,
            concurrency: self.concurrency,
            faults: self.faults,
            seed: self.seed,
            daemon: self.api.then(|| assignments(set)),
        }
    }
}
