//! What a daemon takes of its host.

use anyhow::{Context as _, Result};
use procfs::process::Process;

use crate::soak::children::children_of;
use crate::soak::leaks::Comparison;

/// Allowed growth of memory: an allocator keeps what it had at the busiest moment.
const MEMORY_ALLOWANCE: u64 = 64 << 20;
/// Allowed growth of the number of descriptors: connections that are just closed, and idle workers.
const DESCRIPTOR_ALLOWANCE: u64 = 16;
/// Descriptors for each VMM.
const DESCRIPTORS_OF_VMM: u64 = 16;

/// What it takes while it has no sandbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    memory: u64,
    descriptors: u64,
    processes: u64,
}

impl Usage {
    pub(super) fn of(daemon: &Process) -> Result<Self> {
        let status = daemon.status().context("can't read a daemon's status")?;
        let kibibytes = status.vmrss.context("the kernel does not say VmRSS")?;
        let descriptors = daemon
            .fd_count()
            .context("can't list a daemon's descriptors")?;
        Ok(Self {
            memory: kibibytes << 10,
            descriptors: descriptors as u64,
            processes: children_of(daemon)?.len() as u64,
        })
    }

    /// Compares it with that of another daemon, or the same one later. After many spawns more VMMs stand by
    /// for a while.
    pub(super) fn compare(self, later: &Self) -> Vec<Comparison> {
        let more = later.processes.saturating_sub(self.processes);
        let allowed = DESCRIPTOR_ALLOWANCE + more * DESCRIPTORS_OF_VMM;
        vec![
            Comparison::new(
                "bytes of the daemon's memory",
                self.memory,
                later.memory,
                MEMORY_ALLOWANCE,
            ),
            Comparison::new(
                "descriptors of the daemon",
                self.descriptors,
                later.descriptors,
                allowed,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_may_grow_with_vmms_and_memory_by_its_allowance() {
        let before = Usage {
            memory: 1 << 20,
            descriptors: 50,
            processes: 5,
        };
        let leaks = |later: Usage| before.compare(&later).iter().any(|line| line.leaked);
        assert!(!leaks(before));
        let grown = Usage {
            descriptors: 50 + DESCRIPTOR_ALLOWANCE + 1,
            ..before
        };
        assert!(leaks(grown));
        assert!(!leaks(Usage {
            processes: 6,
            ..grown
        }));
        assert!(leaks(Usage {
            memory: before.memory + MEMORY_ALLOWANCE + 1,
            ..before
        }));
    }

    #[test]
    fn a_process_takes_memory_and_descriptors() {
        let usage = Usage::of(&Process::myself().unwrap()).unwrap();
        assert!(usage.memory > 1 << 20 && usage.descriptors >= 3);
    }
}
