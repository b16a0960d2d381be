//! The memory that this process may use: the host's, or less in a container or a service.

use crate::vm::own_groups::Limit;

/// Returns it in MiB.
pub(crate) fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    // Both are `unsigned long`, which has 64 bits here.
    let installed = info.totalram * u64::from(info.mem_unit);
    let limit = MEMORY.least().unwrap_or(u64::MAX);
    installed.min(limit) >> 20
}

/// The memory limit of a control group.
const MEMORY: Limit = Limit {
    controller: "memory",
    version_2: "memory.max",
    // A huge number if there is no limit.
    version_1: "memory.limit_in_bytes",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_some_memory() {
        assert!((64..1 << 40).contains(&host_memory_mib()));
    }
}
