//! The options of `ironclaw bench`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use ironclaw_bench::bench::{self, FirstCommand, OfApi};

use ironclaw_inventory::TemplateOptions;

use super::assignment::assignments;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) template: TemplateOptions,
    /// Measurements of each kind, 1 to 1000; of cold boots 5 at most, 3
    /// of a quick run. The 99th percentile takes
    /// 100 to be more than the slowest one.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Measure only what the ratios take: no throughput, no memory of many clones.
    #[arg(long, conflicts_with = "plot")]
    pub(crate) quick: bool,
    /// Draw the figures as SVG files in this directory, which is made if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,
    /// Compare the ratios with those in this file, and exit with 1 if one is more than twice what
    /// it says. The last one given counts.
    #[arg(long, value_name = "FILE", overrides_with = "compare")]
    pub(crate) compare: Option<PathBuf>,
    /// Measure only so many clients at a time that spawn, run a command and destroy, again and
    /// again, in turns with starts, loads and kills of Firecracker alone; as root also jailed. Takes
    /// three seconds for each of them in each round.
    #[arg(long, value_name = "CLIENTS", value_delimiter = ',', conflicts_with_all = ["quick", "plot", "compare"],
          value_parser = clap::value_parser!(u8).range(1..=200))]
    pub(crate) churn: Vec<u8>,
    /// Measure only what a warm clone costs among so many, each number by itself: to fill the pool, a
    /// spawn, memory, to close it, and to sweep what a killed process with as many left. There has to
    /// be memory for them: 1 to 5 MiB each with the test guest, which is not counted by the budget.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', conflicts_with_all = ["quick", "compare", "churn"],
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) clones: Vec<u16>,
    /// Hold so many warm clones until this process is killed: `--clones` starts it with that.
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) hold: Option<u16>,
    /// Measure only what the daemon's API costs: sandboxes and their first commands, through HTTP and by the
    /// library in turns, one by one, one begun every 200 ms, and many at once. Starts a daemon of its own.
    #[arg(long, group = "crowd", conflicts_with_all = ["quick", "plot", "compare", "churn", "clones", "hold"])]
    pub(crate) api: bool,
    /// Warm clones of the daemon, and as many of the library.
    #[arg(long, value_name = "CLONES", default_value_t = 20, requires = "api",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) warm: u16,
    /// With --api: also a command in a sandbox that runs, by the library, through HTTP and by the official
    /// Python SDK, in turns. PYTHON has the package `e2b`, and the template has bash.
    #[arg(long, value_name = "PYTHON", requires = "api")]
    pub(crate) sdk: Option<PathBuf>,
    /// Number of clones that run CMD at the same time, after one alone, 20 by default; of sandboxes that
    /// are asked for at the same time, 100 by default.
    #[arg(long, value_name = "CLONES", requires = "crowd",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) at_once: Option<u16>,
    /// Measure only this command: its first run in warm clones that nobody touched before, beside its second
    /// run there, in one at a time and in several at once; and a warm spawn of the template, beside one of
    /// the minimal template.
    #[arg(last = true, value_name = "CMD", group = "crowd",
          conflicts_with_all = ["quick", "plot", "compare", "churn", "clones", "hold"])]
    pub(crate) command: Vec<String>,
}

/// Clones that run a command at the same time by default, and sandboxes that are asked for.
const CLONES_AT_ONCE: u16 = 20;
const SANDBOXES_AT_ONCE: u16 = 100;

impl Bench {
    /// Returns what to measure; `set` are the settings of the command line.
    pub(crate) fn options(self, set: &[(String, OsString)]) -> bench::Options {
        let at_once = |default| self.at_once.unwrap_or(default).into();
        let first = (!self.command.is_empty()).then(|| FirstCommand {
            argv: self.command.clone(),
            at_once: at_once(CLONES_AT_ONCE),
        });
        let api = self.api.then(|| OfApi {
            settings: assignments(set),
            warm: self.warm.into(),
            at_once: at_once(SANDBOXES_AT_ONCE),
            sdk: self.sdk.clone(),
        });
        bench::Options {
            rounds: self.rounds,
            quick: self.quick,
            plot: self.plot,
            compare: self.compare,
            churn: self.churn.into_iter().map(usize::from).collect(),
            clones: self.clones.into_iter().map(usize::from).collect(),
            hold: self.hold.map(usize::from),
            first,
            api,
        }
    }
}
