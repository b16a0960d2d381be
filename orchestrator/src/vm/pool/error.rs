//! Errors of a pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::vm::config::ConfigError;
use crate::vm::identity::BadName;
use crate::vm::launcher::LaunchError;
use crate::vm::pool::budget::{Limit, VMM_MIB};
use crate::vm::vm_handle::Origin;

/// The reason why there is no VM.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The name is invalid.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The pool could not be opened.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The limit of VMs is reached, and none ended in time.
    #[error(
        "no room for another VM after waiting for {waited:.1?}: the limit is {limit}; end VMs, or \
         raise `max_vms` or `memory_budget_mib`"
    )]
    PoolExhausted {
        /// The time waited.
        waited: Duration,
        /// The limit of the budget.
        limit: Limit,
    },
    /// There was room, but too many VMs were starting before this one.
    #[error(
        "no VM was started within {waited:.1?}: the host starts {starts} at a time, and others came \
         first; spawn fewer at a time, or wait longer (SpawnOptions::patience)"
    )]
    StartsBusy {
        /// The time waited.
        waited: Duration,
        /// The limit of concurrent starts.
        starts: usize,
    },
    /// The spawn's own [limit](super::SpawnOptions::timeout) was reached.
    #[error("no VM was served within {after:.1?}{}", because(tiers))]
    TimedOut {
        /// The limit.
        after: Duration,
        /// The tiers that had failed until then.
        tiers: Tiers,
    },
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
    /// The async runtime in which the pool was opened has ended.
    #[error("{RUNTIME_ENDED}")]
    RuntimeEnded,
    /// Every tier failed.
    #[error("no tier could serve a VM: {0}")]
    Failed(Tiers),
}

const RUNTIME_ENDED: &str = "the async runtime in which the pool was opened has ended, and the \
                             pool with it: open pools in a runtime that lives as long as they do";

fn because(tiers: &Tiers) -> String {
    match tiers.0.is_empty() {
        true => String::new(),
        false => format!(": {tiers}"),
    }
}

/// The tiers that were tried, and the reason why each failed.
#[derive(Debug)]
pub struct Tiers(pub(super) Vec<(Origin, LaunchError)>);

impl Tiers {
    /// Returns them in the order of the attempts; if all failed, the last is the cold boot.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &LaunchError)> {
        self.0.iter().map(|(origin, error)| (*origin, error))
    }
}

impl fmt::Display for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (origin, error)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{origin}: {error}")?;
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

/// The reason why a pool could not be opened or filled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A setting is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A requirement of VMs is missing.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A snapshot or a warm clone could not be made.
    #[error("the pool could not be filled")]
    WarmUp(#[source] Arc<LaunchError>),
    /// The requested size is 0.
    #[error("a pool has at least one place")]
    NoPlaces,
    /// Not even one VM fits.
    #[error(
        "a VM with {guest_mib} MiB, and {VMM_MIB} MiB for its VMM, does not fit into the limit of \
         {limit}: raise `memory_budget_mib` or lower `memory_mib`"
    )]
    NoRoom {
        /// Memory of a guest in MiB.
        guest_mib: u64,
        /// The limit of the budget.
        limit: Limit,
    },
    /// The minimum of warm clones exceeds the maximum.
    #[error("at least {min_warm} warm clones and at most {max_warm} contradict each other")]
    WarmRange {
        /// The minimum.
        min_warm: usize,
        /// The maximum.
        max_warm: usize,
    },
    /// The budget has never room for so many warm clones.
    #[error(
        "at most {holds} VMs of this size fit into the host's limit, fewer than {max_warm} warm clones"
    )]
    TooManyWarm {
        /// The maximum of warm clones.
        max_warm: usize,
        /// How many there is room for.
        holds: usize,
    },
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
    /// The async runtime in which the pool was opened has ended.
    #[error("{RUNTIME_ENDED}")]
    RuntimeEnded,
}
