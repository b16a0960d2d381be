//! Injects faults.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::{LaunchError, SpawnError, backends};
use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use super::children::children_of;

/// Number of killed VMMs that are remembered: a VM's user learns of its end at once.
const MAX_REMEMBERED: usize = 1000;

/// A fault that is injected from outside of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Kills a warm clone's VMM.
    WarmClone,
    /// Kills any VMM: of a build, a restore, a warm clone or a lease.
    AnyVmm,
    /// Replaces a file of a snapshot.
    Snapshot,
    /// Moves the pool's clock ahead.
    Clock,
    /// Fills the disk for a while.
    Disk,
}

impl Fault {
    pub(super) const ALL: [Self; 5] = [
        Self::WarmClone,
        Self::AnyVmm,
        Self::Snapshot,
        Self::Clock,
        Self::Disk,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WarmClone => "warm clone killed",
            Self::AnyVmm => "any VMM killed",
            Self::Snapshot => "snapshot damaged",
            Self::Clock => "clock jumped",
            Self::Disk => "disk full",
        }
    }

    /// Returns all of them in random order.
    pub(super) fn shuffled(rng: &mut Rng) -> [Self; 5] {
        let mut faults = Self::ALL;
        rng.shuffle(&mut faults);
        faults
    }
}

/// Time after a fault within which failures are attributed to it. The end of a VMM is noticed at
/// once, but a busy machine may take long for that.
const ATTRIBUTION_TIME: Duration = Duration::from_secs(10);

/// The reasons for which a tier may fail while faults are injected: a killed VMM, a damaged
/// snapshot, a full disk.
pub(super) const CONSEQUENCES: [&str; 7] = [
    "vmm_died",
    "vmm_refused",
    "guest",
    "not_released",
    "snapshot",
    "no_space",
    "io",
];

/// The injected faults, to attribute failures to them.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    /// The time when a VMM was last killed that a spawn may have waited for.
    killed: Mutex<Option<Instant>>,
    disk: Mutex<Episode>,
    victims: Mutex<VecDeque<u32>>,
}

/// When a fault lasts.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Episode {
    #[default]
    Never,
    Lasts,
    /// It was over then.
    Over(Instant),
}

impl Episode {
    /// Returns whether it explains a failure at `now` of something begun at `then`.
    pub(super) fn explains(self, then: Instant, now: Instant) -> bool {
        match self {
            Self::Never => false,
            Self::Lasts => true,
            Self::Over(end) => explains(end, then, now),
        }
    }
}

impl Strikes {
    /// Call this before killing a VMM that a spawn may wait for.
    pub(super) fn strike(&self) {
        *lock(&self.killed) = Some(Instant::now());
    }

    pub(super) fn disk_is_full(&self, full: bool) {
        *lock(&self.disk) = if full {
            Episode::Lasts
        } else {
            Episode::Over(Instant::now())
        };
    }

    /// Returns whether a fault explains that a spawn requested at `then` fails now. A damaged
    /// snapshot or a killed clone only fails one tier; the spawn fails only if its boot does, too.
    /// No fault explains a lack of room: faults only make room.
    pub(super) fn explain(&self, then: Instant, error: &SpawnError) -> bool {
        let SpawnError::Failed(tiers) = error else {
            return false;
        };
        let now = Instant::now();
        let struck = |(_, error): (_, &LaunchError)| CONSEQUENCES.contains(&error.reason());
        tiers.iter().all(struck) && (self.killed_in(then, now) || self.disk_was_full_in(then, now))
    }

    /// Returns whether a full disk explains that a VM requested at `then` failed just now. A full
    /// disk also ends VMs: a tmpfs needs room even for a hole that is read through a mapping
    /// (SIGBUS otherwise), and memory files are full of holes.
    pub(super) fn disk_was_full_since(&self, then: Instant) -> bool {
        self.disk_was_full_in(then, Instant::now())
    }

    fn killed_in(&self, then: Instant, now: Instant) -> bool {
        lock(&self.killed).is_some_and(|killed| explains(killed, then, now))
    }

    fn disk_was_full_in(&self, then: Instant, now: Instant) -> bool {
        lock(&self.disk).explains(then, now)
    }

    /// Kills a VMM of ours; returns `false` if none has that PID.
    pub(super) fn kill(&self, pid: u32) -> bool {
        let Some(vmm) = child(std::process::id(), pid) else {
            return false;
        };
        {
            let mut victims = lock(&self.victims);
            victims.push_back(pid);
            if victims.len() > MAX_REMEMBERED {
                victims.pop_front();
            }
        }
        pidfd_send_signal(&vmm, Signal::KILL).is_ok()
    }

    /// Returns whether this VMM was killed here.
    pub(super) fn killed(&self, pid: u32) -> bool {
        lock(&self.victims).contains(&pid)
    }
}

/// Returns whether a fault that was over at `end` explains a failure at `now` of something begun at
/// `then`.
fn explains(end: Instant, then: Instant, now: Instant) -> bool {
    then <= end && now.saturating_duration_since(end) <= ATTRIBUTION_TIME
}

/// Kills a child of a process; returns `false` if that has none with this PID.
pub(super) fn kill_child(of: u32, pid: u32) -> bool {
    child(of, pid).is_some_and(|child| pidfd_send_signal(&child, Signal::KILL).is_ok())
}

/// Returns a handle of a process's child.
fn child(of: u32, pid: u32) -> Option<OwnedFd> {
    let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let process = pidfd_open(number, PidfdFlags::empty()).ok()?;
    // Checked after opening the pidfd: the PID may be another process's by now.
    (parent(pid) == Some(of)).then_some(process)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stat(pid: u32) -> Option<Stat> {
    let pid = i32::try_from(pid).ok()?;
    Process::new(pid).and_then(|process| process.stat()).ok()
}

fn parent(pid: u32) -> Option<u32> {
    u32::try_from(stat(pid)?.ppid).ok()
}

/// Lists the VMMs of this process.
pub(super) fn vmms() -> Vec<u32> {
    Process::myself()
        .map(|own| vmms_of(&own))
        .unwrap_or_default()
}

/// Lists the VMMs of a process: all children but the first process of the jails' PID namespace, which is
/// no VMM, and whose end would end all of them.
pub(super) fn vmms_of(process: &Process) -> Vec<u32> {
    let is_vmm = |pid: &u32| {
        let name = stat(*pid).map(|stat| stat.comm).unwrap_or_default();
        backends::process_names().any(|vmm| name.starts_with(vmm))
    };
    let pids = children_of(process).unwrap_or_default();
    pids.into_iter().filter(is_vmm).collect()
}

/// Chooses how far the pool's clock jumps: from a minute to two hours.
pub(super) fn jump(rng: &mut Rng) -> Duration {
    Duration::from_secs(rng.u64(60..7200))
}

/// Replaces or removes a file of a random snapshot. Living clones keep the file that they mapped;
/// later restores see the damage. Returns what was done; `None` if there is no snapshot.
pub(super) fn damage(
    store: &SnapshotStore,
    aside: &Path,
    rng: &mut Rng,
) -> io::Result<Option<&'static str>> {
    let entries = store.list().map_err(io::Error::other)?;
    let sound: Vec<_> = entries.iter().filter(|entry| entry.state.is_ok()).collect();
    let Some(entry) = rng.choice(&sound) else {
        return Ok(None);
    };
    let (file, what): (_, &'static str) = *rng
        .choice(&[
            ("memory", "cut in half"),
            ("memory", "emptied"),
            ("memory", "taken away"),
            ("vmstate", "cut in half"),
            ("vmstate", "emptied"),
            ("vmstate", "filled with zeros"),
            ("vmstate", "taken away"),
        ])
        .unwrap_or(&("memory", "emptied"));
    let target = entry.path.join(file);
    let moved = aside.join("damaged");
    let replaced = || -> io::Result<()> {
        if what == "taken away" {
            fs::rename(&target, &moved)?;
            return fs::remove_file(&moved);
        }
        let bytes = fs::metadata(&target)?.len();
        match (file, what) {
            ("vmstate", "cut in half") => {
                let mut content = fs::read(&target)?;
                content.truncate(content.len() / 2);
                fs::write(&moved, content)?;
            }
            (_, "cut in half") => fs::File::create(&moved)?.set_len(bytes / 2)?,
            (_, "emptied") => drop(fs::File::create(&moved)?),
            _ => fs::File::create(&moved)?.set_len(bytes)?,
        }
        fs::rename(&moved, &target)
    };
    match replaced() {
        Ok(()) => Ok(Some(what)),
        // The pool has deleted it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironclaw_orchestrator::vm::Limit;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn only_children_of_this_process_are_killed_and_remembered() {
        let strikes = Strikes::default();
        assert!(!strikes.kill(1), "not ours");
        assert!(!strikes.killed(1));
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(!strikes.killed(pid));
        assert!(strikes.kill(pid));
        assert!(strikes.killed(pid));
        assert!(!child.wait().unwrap().success());
        assert!(!strikes.kill(pid), "gone");
    }

    #[test]
    fn a_kill_explains_what_it_met_for_a_moment_and_nothing_that_came_later() {
        let strikes = Strikes::default();
        let then = Instant::now();
        assert!(!strikes.killed_in(then, then), "nothing struck yet");
        strikes.strike();
        let struck = Instant::now();
        assert!(strikes.killed_in(then, struck));
        assert!(strikes.killed_in(then, struck + ATTRIBUTION_TIME / 2));
        // A spawn that has waited since the fault.
        let minutes_later = struck + ATTRIBUTION_TIME + Duration::from_secs(120);
        assert!(!strikes.killed_in(then, minutes_later));
        let later = struck + MOMENT;
        assert!(!strikes.killed_in(later, later + MOMENT));
    }

    #[test]
    fn a_full_disk_explains_for_as_long_as_it_is_full_and_a_moment_more() {
        let strikes = Strikes::default();
        let before = Instant::now();
        assert!(!strikes.disk_was_full_since(before));
        strikes.disk_is_full(true);
        let (then, later) = (Instant::now(), Instant::now() + 10 * ATTRIBUTION_TIME);
        assert!(strikes.disk_was_full_in(then, later), "it is full still");
        strikes.disk_is_full(false);
        let freed = Instant::now();
        assert!(strikes.disk_was_full_since(then), "it was full then");
        assert!(!strikes.disk_was_full_in(then, freed + ATTRIBUTION_TIME + MOMENT));
        let next = freed + MOMENT;
        assert!(!strikes.disk_was_full_in(next, next + MOMENT));
    }

    #[test]
    fn no_fault_explains_that_there_was_no_room() {
        let strikes = Strikes::default();
        let then = Instant::now();
        strikes.strike();
        strikes.disk_is_full(true);
        let exhausted = SpawnError::PoolExhausted {
            waited: Duration::from_secs(120),
            limit: Limit::default(),
        };
        assert!(!strikes.explain(then, &exhausted));
    }

    #[test]
    fn no_vmm_is_found_where_there_is_none() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        assert!(!vmms().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_empty_store_has_nothing_to_damage() {
        let directory = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(directory.path().join("snapshots")).unwrap();
        let done = damage(&store, directory.path(), &mut Rng::with_seed(1));
        assert_eq!(done.unwrap(), None);
    }
}
