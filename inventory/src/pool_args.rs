//! The commands of `ironclaw pool`.

use clap::{Subcommand, ValueEnum};

use crate::help;
use crate::which::TemplateOptions;

/// A command of `ironclaw pool`.
#[derive(Debug, Subcommand)]
pub enum PoolTask {
    /// Build the snapshots that are missing, up to IRONCLAW_POOL_SIZE, and replace those that are
    /// older than IRONCLAW_SNAPSHOT_REFRESH_SECS.
    #[command(after_help = help::POOL_EXAMPLES)]
    Warmup {
        /// What its VMs boot from.
        #[command(flatten)]
        template: TemplateOptions,
    },
    /// Replace every snapshot by one of a fresh boot; the former are deleted when nothing uses
    /// them any more, and so is whatever else is older than IRONCLAW_SNAPSHOT_REFRESH_SECS and
    /// used by nobody. Checkpoints stay.
    #[command(after_help = help::POOL_EXAMPLES)]
    Refresh {
        /// What its VMs boot from.
        #[command(flatten)]
        template: TemplateOptions,
    },
    /// Show the snapshots on disk: kind, age, size, use, and whether they fit this machine; and how many
    /// VMs there is memory for.
    ///
    /// What the pool of a running program has warm and has served, and whether it has switched a tier
    /// off, only that program knows: see `pool_stats` and `prometheus_text` of the library. Whether the
    /// tiers work here, `ironclaw doctor` tries.
    #[command(after_help = help::POOL_STATS_EXAMPLES)]
    Stats {
        /// What its VMs boot from.
        #[command(flatten)]
        template: TemplateOptions,
        /// As a table, as one line of JSON (also --json), or in the text format of Prometheus.
        #[arg(long, value_enum, conflicts_with = "json")]
        format: Option<StatsFormat>,
    },
}

impl PoolTask {
    /// Returns whether it was asked for JSON by an option of its own.
    #[must_use]
    pub fn prints_json(&self) -> bool {
        let json = Some(StatsFormat::Json);
        matches!(self, Self::Stats { format, .. } if *format == json)
    }
}

/// How figures are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    Table,
    Json,
    Prometheus,
}
