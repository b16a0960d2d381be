//! The options of `ironclaw bench`.

use std::path::PathBuf;

use clap::Args;
use ironclaw_bench::bench::{self, FirstCommand};

use ironclaw_inventory::TemplateOptions;

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
    /// Number of clones that run CMD at the same time, after one alone.
    #[arg(long, value_name = "CLONES", default_value_t = 20, requires = "command",
          value_parser = clap::value_parser!(u8).range(1..=200))]
    pub(crate) at_once: u8,
    /// Measure only this command: its first run in warm clones that nobody touched before, beside its second
    /// run there, in one at a time and in several at once; and a warm spawn of the template, beside one of
    /// the minimal template.
    #[arg(last = true, value_name = "CMD",
          conflicts_with_all = ["quick", "plot", "compare", "churn", "clones", "hold"])]
    pub(crate) command: Vec<String>,
}

impl From<Bench> for bench::Options {
    fn from(task: Bench) -> Self {
        Self {
            rounds: task.rounds,
            quick: task.quick,
            plot: task.plot,
            compare: task.compare,
            churn: task.churn.into_iter().map(usize::from).collect(),
            clones: task.clones.into_iter().map(usize::from).collect(),
            hold: task.hold.map(usize::from),
            first: (!task.command.is_empty()).then(|| FirstCommand {
                argv: task.command,
                at_once: task.at_once.into(),
            }),
        }
    }
}
