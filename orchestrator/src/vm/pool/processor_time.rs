//! The processor time of a process.

use std::time::Duration;

use procfs::process::Process;

/// The processor time of a process's threads, as counted by the scheduler (Linux
/// Documentation/scheduler/sched-stats.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProcessorTime {
    /// The time for which they ran, their guest included.
    pub(super) worked: Duration,
    /// The time for which they were runnable and waited for a processor.
    pub(super) queued: Duration,
}

impl ProcessorTime {
    /// Reads that of the process `pid`; `None` if it has ended, or this user may not read it.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let mut sum = Self::default();
        for task in process.tasks().ok()?.flatten() {
            // A thread that has ended meanwhile is not counted.
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
