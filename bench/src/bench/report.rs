//! The full report, as printed in JSON.

use ironclaw_orchestrator::vm::vmm::{Machine, VmmIdentity};
use serde::Serialize;

use super::clones::Clones;
use super::host::Host;
use super::load::Concurrency;
use super::ratios::Ratios;
use super::snapshots::Snapshots;
use super::tiers::Tier;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) host: Host,
    pub(super) vmm: VmmIdentity,
    pub(super) guest: Guest,
    /// The page cache of the snapshot that most measurements use.
    pub(super) cache: Cache,
    /// Warm, restored, cold boot.
    pub(super) tiers: Vec<Tier>,
    pub(super) snapshots: Snapshots,
    /// Pools with as many snapshots as the settings say; empty in a quick run.
    pub(super) warmups: Vec<Warmup>,
    pub(super) clones: Vec<Clones>,
    /// Empty in a quick run.
    pub(super) concurrency: Vec<Concurrency>,
    pub(super) ratios: Ratios,
}

#[derive(Debug, Serialize)]
pub(super) struct Guest {
    pub(super) memory_mib: u32,
    pub(super) vcpus: u8,
}

/// How much of a snapshot's memory file was in the page cache: nothing warms it except that it was
/// just written.
#[derive(Debug, Serialize)]
pub(super) struct Cache {
    /// The file's length, holes included.
    pub(super) memory_bytes: u64,
    /// At publication, before the first restore.
    pub(super) before_bytes: u64,
    /// After the last restore. Includes holes that a clone read.
    pub(super) after_bytes: u64,
}

/// Filling a pool.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Warmup {
    pub(super) snapshots: usize,
    /// Snapshots that existed; the others were built.
    pub(super) found: usize,
    /// Warm clones, all of which were restored.
    pub(super) clones: usize,
    pub(super) took_ms: f64,
}

impl Guest {
    pub(super) fn of(machine: Machine) -> Self {
        let Machine {
            memory_mib, vcpus, ..
        } = machine;
        Self { memory_mib, vcpus }
    }

    /// `QEMU 7.2.0 (tcg), guests of 128 MiB and 1 vCPU`
    pub(super) fn line(&self, vmm: &VmmIdentity) -> String {
        let Self { memory_mib, vcpus } = self;
        format!("{vmm}, guests of {memory_mib} MiB and {vcpus} vCPU")
    }
}
