//! What a sandbox uses, as its guest tells: processors, memory, disk.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::{Command, GuestError, VmClient};
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// Time over which the use of processors is measured: it is a rate.
const MEASURED_TIME: Duration = Duration::from_millis(200);

/// Time for which one measurement serves, whoever asks.
const FRESH_TIME: Duration = Duration::from_secs(1);

/// Measurements that are kept of a sandbox.
const MAX_KEPT: usize = 1000;

/// Limit of a file of the guest's `/proc`, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Prints the block size of the root's file system, and how many blocks it has, and has free. `df` does
/// not know a root in memory.
const STAT: [&str; 5] = ["stat", "-f", "-c", "%S %b %f", "/"];

/// Limit of what it prints, in bytes, and of its time.
const MAX_STAT: u64 = 1024;
const STAT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a sandbox used at some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    pub(crate) at: SystemTime,
    pub(crate) cpus: u32,
    /// Of all processors together, 0 to 100.
    pub(crate) cpu_percent: f64,
    pub(crate) memory: Memory,
    pub(crate) disk: Disk,
}

/// Memory of a guest, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) used: u64,
    pub(crate) cache: u64,
}

/// The file system of a guest's root, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) total: u64,
    pub(crate) used: u64,
}

/// The reason why it is not known what a sandbox uses.
#[derive(Debug, Error)]
pub(crate) enum UsageError {
    /// Its guest can't be asked.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// What it answers is not of the form expected.
    #[error("the guest's {0} is not of the form expected")]
    Unreadable(&'static str),
}

/// What was measured of a sandbox since it was made, or its daemon began.
#[derive(Debug, Default)]
pub(crate) struct UsageHistory {
    kept: Mutex<VecDeque<(Instant, Usage)>>,
    /// One measurement at a time serves all who ask meanwhile.
    measuring: tokio::sync::Mutex<()>,
}

impl UsageHistory {
    /// Measures what a guest uses now.
    pub(crate) async fn measure(&self, vm: &VmClient) -> Result<(), UsageError> {
        let _alone = self.measuring.lock().await;
        let last = self.lock().back().map(|(at, _)| *at);
        if last.is_some_and(|at| at.elapsed() < FRESH_TIME) {
            return Ok(());
        }
        let usage = measure(vm).await?;
        let mut kept = self.lock();
        kept.push_back((Instant::now(), usage));
        if kept.len() > MAX_KEPT {
            kept.pop_front();
        }
        Ok(())
    }

    /// Returns what was measured, the oldest first.
    pub(crate) fn all(&self) -> Vec<Usage> {
        self.lock().iter().map(|(_, usage)| *usage).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Usage)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn measure(vm: &VmClient) -> Result<Usage, UsageError> {
    let before = stat(vm).await?;
    sleep(MEASURED_TIME).await;
    let after = stat(vm).await?;
    let meminfo = text(vm, "/proc/meminfo").await?;
    let stat_root = Command::from(STAT)
        .timeout(STAT_TIMEOUT)
        .max_output(MAX_STAT);
    let root = vm.exec(stat_root).await?;
    Ok(Usage {
        at: SystemTime::now(),
        cpus: after.cpus,
        cpu_percent: before.percent_until(&after),
        memory: memory(&meminfo).ok_or(UsageError::Unreadable("/proc/meminfo"))?,
        disk: disk(&String::from_utf8_lossy(&root.stdout)).ok_or(UsageError::Unreadable("stat"))?,
    })
}

async fn stat(vm: &VmClient) -> Result<Processors, UsageError> {
    let stat = text(vm, "/proc/stat").await?;
    processors(&stat).ok_or(UsageError::Unreadable("/proc/stat"))
}

async fn text(vm: &VmClient, path: &str) -> Result<String, UsageError> {
    let bytes = vm.files().read(path, MAX_FILE).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Time of all processors since the boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Processors {
    cpus: u32,
    idle: u64,
    all: u64,
}

impl Processors {
    #[expect(clippy::cast_precision_loss, reason = "differences of ticks are small")]
    fn percent_until(&self, later: &Self) -> f64 {
        let all = later.all.saturating_sub(self.all);
        let idle = later.idle.saturating_sub(self.idle).min(all);
        match all {
            0 => 0.0,
            all => (all - idle) as f64 / all as f64 * 100.0,
        }
    }
}

/// Reads a `/proc/stat`, which the guest may have filled with anything.
fn processors(stat: &str) -> Option<Processors> {
    let mut lines = stat.lines().filter_map(|line| line.strip_prefix("cpu"));
    // Of all together: user, nice, system, idle, waiting for disks, and more.
    let mut times = [0_u64; 8];
    let mut fields = lines.next()?.split_ascii_whitespace();
    for time in &mut times {
        *time = fields.next()?.parse().ok()?;
    }
    let cpus = u32::try_from(lines.count()).ok()?;
    Some(Processors {
        cpus,
        idle: times[3].checked_add(times[4])?,
        all: times
            .iter()
            .try_fold(0_u64, |sum, time| sum.checked_add(*time))?,
    })
}

/// Reads a `/proc/meminfo`.
fn memory(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            value.trim().strip_suffix(" kB")
        });
        line?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = field("MemTotal")?;
    Some(Memory {
        total,
        used: total.saturating_sub(field("MemAvailable")?),
        cache: field("Cached")?,
    })
}

/// Reads what [`STAT`] prints.
fn disk(stat: &str) -> Option<Disk> {
    let mut fields = stat.split_ascii_whitespace();
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (size, blocks, free) = (next()?, next()?, next()?);
    Some(Disk {
        total: size.checked_mul(blocks)?,
        used: size.checked_mul(blocks.checked_sub(free)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_figures_are_read() {
        let stat = |user, idle| {
            format!("cpu  {user} 0 10 {idle} 5 0 0 0 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 9\n")
        };
        let before = processors(&stat(100, 1000)).unwrap();
        let after = processors(&stat(130, 1070)).unwrap();
        assert_eq!(before.cpus, 2);
        assert!((before.percent_until(&after) - 30.0).abs() < 1e-9);
        assert!((after.percent_until(&before)).abs() < 1e-9);
        let meminfo = "MemTotal:   1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nCached: 7 kB\n";
        let kib = 1024;
        let (total, used, cache) = (1000 * kib, 600 * kib, 7 * kib);
        assert_eq!(memory(meminfo), Some(Memory { total, used, cache }));
        let (total, used) = (100 * kib, 40 * kib);
        assert_eq!(disk("1024 100 60\n"), Some(Disk { total, used }));
    }

    #[test]
    fn nonsense_of_a_guest_is_told_as_such() {
        let many = "cpu ".to_owned() + &u64::MAX.to_string() + " 1 1 1 1 1 1 1";
        for text in ["", "cpu", "cpu a b c d e f g h", "x\ny", &many] {
            assert_eq!(processors(text), None);
            assert_eq!(memory(text), None);
            assert_eq!(disk(text), None);
        }
        let huge = format!("MemTotal: {} kB\n", u64::MAX);
        assert_eq!(memory(&huge), None);
    }
}
