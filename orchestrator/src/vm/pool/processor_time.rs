//! What a process has had of processors.

use std::time::Duration;

use procfs::process::Process;

/// Processor time of a process's threads, as the scheduler counts it (Linux
/// Documentation/scheduler/sched-stats.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProcessorTime {
    /// For which they ran, their guest included.
    pub(super) worked: Duration,
    /// For which they could have run, and waited for a processor.
    pub(super) queued: Duration,
}

impl ProcessorTime {
    /// Of the process `pid` until now; `None` if it has ended, or may not be looked into.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let mut sum = Self::default();
        for task in process.tasks().ok()?.flatten() {
            // One that has ended meanwhile has worked, too, but who knows how long.
            let Ok(stat) = task.schedstat() else { continue };
            sum.worked += Duration::from_nanos(stat.sum_exec_runtime);
            sum.queued += Duration::from_nanos(stat.run_delay);
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_process_that_works_has_worked_more_than_before() {
        let of_us = || ProcessorTime::of(std::process::id());
        let before = of_us().unwrap();
        let begun = Instant::now();
        while of_us().unwrap().worked <= before.worked {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        assert_eq!(ProcessorTime::of(u32::MAX), None);
    }
}
