//! The host of the measurements.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use ironclaw_orchestrator::vm::snapshot;
use procfs::{Current as _, LoadAverage, Meminfo};
use serde::Serialize;

/// The governor of the first processor's frequency.
const GOVERNOR: &str = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";

/// The machine, and its other load.
#[derive(Debug, Serialize)]
pub(super) struct Host {
    pub(super) cpu_model: String,
    /// The processors that this process may use.
    pub(super) processors: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
    /// `None` if the kernel does not control the processors' frequency.
    pub(super) cpu_governor: Option<String>,
    pub(super) load_before: Load,
    pub(super) load_after: Load,
}

/// Load averages: running and runnable processes, averaged over so many minutes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Load {
    pub(super) one: f32,
    pub(super) five: f32,
    pub(super) fifteen: f32,
}

impl Host {
    /// Reads them at the end of the measurements.
    pub(super) fn new(host: &snapshot::Host, load_before: Load) -> Result<Self> {
        let memory = Meminfo::current().context("can't read /proc/meminfo")?;
        Ok(Self {
            cpu_model: host.cpu_model.clone(),
            processors: available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.mem_total,
            kernel: host.kernel_release.clone(),
            cpu_governor: fs::read_to_string(GOVERNOR)
                .ok()
                .map(|text| text.trim().to_owned()),
            load_before,
            load_after: Load::now()?,
        })
    }

    /// `load average 0.50 before, 1.20 after`
    pub(super) fn load(&self) -> String {
        format!(
            "load average {:.2} before, {:.2} after",
            self.load_before.one, self.load_after.one
        )
    }

    /// `Some CPU, 2 processors, 15.6 GiB, Linux 6.1.0`
    pub(super) fn line(&self) -> String {
        let Self {
            cpu_model,
            processors,
            memory_bytes,
            kernel,
            ..
        } = self;
        let gibibytes = *memory_bytes as f64 / f64::from(1 << 30);
        format!("{cpu_model}, {processors} processors, {gibibytes:.1} GiB, Linux {kernel}")
    }
}

impl Load {
    pub(super) fn now() -> Result<Self> {
        let load = LoadAverage::current().context("can't read /proc/loadavg")?;
        Ok(Self {
            one: load.one,
            five: load.five,
            fifteen: load.fifteen,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let host = snapshot::Host::current(None).unwrap();
        let host = Host::new(&host, Load::now().unwrap()).unwrap();
        assert!(!host.kernel.is_empty() && host.processors > 0);
        assert!(host.memory_bytes > 1 << 20);
    }
}
