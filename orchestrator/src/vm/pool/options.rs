//! What the opener of a pool, and the caller of a spawn, may choose.

use std::time::Duration;

use crate::vm::config::{Config, DEFAULT_REFRESH, DEFAULT_STANDBY};
use crate::vm::limits::Limits;

use super::budget::{Budget, Limit};

/// How many VMs a pool keeps ready, and its limits.
///
/// ```
/// # use ironclaw_orchestrator::vm::{Budget, Limit, PoolOptions};
/// let options = PoolOptions::new(2)
///     .with_min_warm(4)
///     .with_max_warm(16)
///     .with_budget(Budget::shared(Limit::of_vms(32)));
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolOptions {
    /// Snapshots, at least 1.
    pub size: usize,
    /// Minimum of warm clones, spread over the snapshots.
    pub min_warm: usize,
    /// Maximum of warm clones. If it exceeds `min_warm`, the pool keeps as many as the largest
    /// burst of the last three hours needed.
    pub max_warm: usize,
    /// Number of started VMM processes on standby, for spawns that find no warm clone, if the
    /// hypervisor supports them ([`Vmm::stand_by`](crate::vm::vmm::Vmm::stand_by)). The budget does
    /// not count them.
    pub standby: usize,
    /// Age at which a snapshot gets a successor; up to a fifth of it less, by jitter, so that not
    /// all are replaced at a time. [`Duration::MAX`]: never by this pool, for a process that ends
    /// before a successor would serve anybody.
    pub refresh: Duration,
    /// Limits this pool's VMs together with those of other pools that share the budget: all of this
    /// process share the host's, except those with a [`Budget::new`].
    pub budget: Budget,
}

impl PoolOptions {
    /// Returns options for `size` snapshots with a warm clone of each and one process on standby,
    /// within [`Budget::of_host`], which all pools of this process share.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            size,
            min_warm: size,
            max_warm: size,
            standby: DEFAULT_STANDBY,
            refresh: DEFAULT_REFRESH,
            budget: Budget::of_host(),
        }
    }

    /// Returns these options with a fixed number of warm clones.
    #[must_use]
    pub fn with_warm(self, warm: usize) -> Self {
        self.with_min_warm(warm).with_max_warm(warm)
    }

    /// Returns these options with another number of [snapshots](Self::size).
    #[must_use]
    pub fn with_size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// Returns these options with another [minimum](Self::min_warm) of warm clones.
    #[must_use]
    pub fn with_min_warm(self, min_warm: usize) -> Self {
        Self { min_warm, ..self }
    }

    /// Returns these options with another [maximum](Self::max_warm) of warm clones.
    #[must_use]
    pub fn with_max_warm(self, max_warm: usize) -> Self {
        Self { max_warm, ..self }
    }

    /// Returns these options with another number of processes on [standby](Self::standby).
    #[must_use]
    pub fn with_standby(self, standby: usize) -> Self {
        Self { standby, ..self }
    }

    /// Returns these options with another age at which snapshots are [replaced](Self::refresh).
    #[must_use]
    pub fn with_refresh(self, refresh: Duration) -> Self {
        Self { refresh, ..self }
    }

    /// Returns these options with another [budget](Self::budget).
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }
}

impl From<&Config> for PoolOptions {
    fn from(config: &Config) -> Self {
        Self {
            size: config.pool_size,
            min_warm: config.min_warm,
            max_warm: config.max_warm,
            standby: config.standby,
            refresh: config.snapshot_refresh,
            budget: Budget::shared(Limit {
                vms: config.max_vms.unwrap_or(usize::MAX),
                memory_mib: config
                    .memory_budget_mib
                    .unwrap_or_else(|| Budget::of_host().limit().memory_mib),
            }),
        }
    }
}

/// How a VM is spawned, and how long it may live.
///
/// ```
/// # use std::time::Duration;
/// # use ironclaw_orchestrator::vm::{Limits, SpawnOptions};
/// let options = SpawnOptions::named("job-7")
///     .with_patience(Duration::from_secs(600))
///     .with_timeout(None)
///     .with_limits(Limits::default().with_max_lifetime(Duration::from_secs(60)));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpawnOptions {
    /// The VM's name, 1 to 64 bytes; also its host name.
    pub name: String,
    /// Timeout of the wait for room when the budget is used up, and for other starts. The time that
    /// the VM then takes to start does not count.
    pub patience: Duration,
    /// Timeout of the whole spawn, whatever it waits for; `None`: as long as the attempts of all
    /// tiers take, each of which has a limit of its own.
    pub timeout: Option<Duration>,
    /// Limits of the VM's life: when it is killed.
    pub limits: Limits,
}

impl SpawnOptions {
    /// Returns options that wait for room for 30 s, take five minutes at most, which is more than
    /// all tiers take one after the other, and set no limits for the VM.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            patience: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(300)),
            limits: Limits::default(),
        }
    }

    /// Returns these options with another timeout of the wait for [room](Self::patience).
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Returns these options with another timeout of the [whole spawn](Self::timeout).
    #[must_use]
    pub fn with_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        Self { timeout, ..self }
    }

    /// Returns these options with other limits of the VM's [life](Self::limits).
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}
