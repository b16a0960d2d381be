//! Memory of warm clones.

use anyhow::{Context as _, Result};
use ironclaw_orchestrator::vm::ProcessMemory;
use serde::Serialize;

use crate::statistics::Spread;

/// The minimum of clones that share anything: enough for a ratio.
pub(super) const FEW: usize = 2;

/// Concurrent warm clones.
#[derive(Debug, Serialize)]
pub(super) struct Clones {
    /// Their number.
    pub(super) clones: usize,
    /// The number of their snapshots.
    pub(super) snapshots: usize,
    /// The proportional share of each: shared pages count in parts.
    pub(super) pss_bytes: Spread<u64>,
    /// The unshared memory of each, which its end frees.
    pub(super) uss_bytes: Spread<u64>,
    /// The memory of all together.
    pub(super) total_pss_bytes: u64,
}

impl Clones {
    /// Measures the VMMs with these PIDs; `None` if there are none, because the budget has no room
    /// for one.
    pub(super) fn of(snapshots: usize, pids: &[u32]) -> Result<Option<Self>> {
        let memory = pids.iter().map(|pid| {
            ProcessMemory::of(*pid)
                .with_context(|| format!("can't read the memory of a VM in /proc/{pid}"))
        });
        let memory = memory.collect::<Result<Vec<_>>>()?;
        let pss = || memory.iter().map(|memory| memory.pss_bytes);
        let spreads = Spread::of(pss()).zip(Spread::of(memory.iter().map(|m| m.uss_bytes)));
        Ok(spreads.map(|(pss_bytes, uss_bytes)| Self {
            clones: memory.len(),
            snapshots,
            pss_bytes,
            uss_bytes,
            total_pss_bytes: pss().sum(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_all() {
        let us = std::process::id();
        let clones = Clones::of(1, &[us, us]).unwrap().unwrap();
        assert_eq!((clones.clones, clones.pss_bytes.samples), (2, 2));
        assert!(clones.total_pss_bytes >= 2 * clones.pss_bytes.min);
        assert!(clones.uss_bytes.min > 0);
    }

    #[test]
    fn none_have_no_memory_and_one_that_died_is_named() {
        assert!(Clones::of(1, &[]).unwrap().is_none());
        let error = Clones::of(1, &[u32::MAX]).unwrap_err().to_string();
        assert!(error.contains("/proc/4294967295"), "{error}");
    }
}
