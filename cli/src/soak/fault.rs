//! What goes wrong on purpose.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::children::children;

/// Victims that are remembered. A VM's user learns of its end at once.
const REMEMBERED: usize = 1000;

/// What can be done to a soak from outside of its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A warm clone's VMM gets SIGKILL.
    WarmClone,
    /// Any VMM does: of a build, a restore, a warm clone or a lease.
    AnyVmm,
    /// A file of a snapshot is replaced by something else.
    Snapshot,
    /// The pool's clock jumps ahead.
    Clock,
    /// The disk is full for a while.
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

    /// All of them, in random order.
    pub(super) fn shuffled(rng: &mut Rng) -> [Self; 5] {
        let mut faults = Self::ALL;
        rng.shuffle(&mut faults);
        faults
    }
}

/// What struck, so that its consequences are known for what they are.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    count: AtomicU64,
    disk_is_full: AtomicBool,
    /// When the disk had room again: a [`Moment`].
    disk_was_freed: AtomicU64,
    victims: Mutex<VecDeque<u32>>,
}

/// How it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl Strikes {
    /// To be called before a fault is done.
    pub(super) fn strike(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn disk_is_full(&self, full: bool) {
        self.strike();
        self.disk_is_full.store(full, Ordering::SeqCst);
        if !full {
            self.disk_was_freed.store(self.now().0, Ordering::SeqCst);
        }
    }

    /// Whether the disk was full at some time since `then`. That ends VMs, too: a file system in
    /// memory needs room even for a hole that is read through a mapping (SIGBUS otherwise), and
    /// memory files are full of holes.
    pub(super) fn disk_was_full_since(&self, then: Moment) -> bool {
        self.disk_is_full.load(Ordering::SeqCst)
            || self.disk_was_freed.load(Ordering::SeqCst) > then.0
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.count.load(Ordering::SeqCst))
    }

    /// Whether a fault struck since then, or strikes still.
    pub(super) fn any_since(&self, then: Moment) -> bool {
        self.now() != then || self.disk_is_full.load(Ordering::SeqCst)
    }

    /// Kills a VMM of ours; `false` if there is none with that number.
    pub(super) fn kill(&self, pid: u32) -> bool {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else {
            return false;
        };
        // Asked after it was opened: the number may be another process's by now.
        if parent(pid) != Some(std::process::id()) {
            return false;
        }
        self.strike();
        {
            let mut victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
            victims.push_back(pid);
            if victims.len() > REMEMBERED {
                victims.pop_front();
            }
        }
        pidfd_send_signal(&process, Signal::KILL).is_ok()
    }

    /// Whether this VMM was killed here.
    pub(super) fn killed(&self, pid: u32) -> bool {
        let victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
        victims.contains(&pid)
    }
}

fn stat(pid: u32) -> Option<Stat> {
    let pid = i32::try_from(pid).ok()?;
    Process::new(pid).and_then(|process| process.stat()).ok()
}

fn parent(pid: u32) -> Option<u32> {
    u32::try_from(stat(pid)?.ppid).ok()
}

/// The VMMs of this process, by number: all children but the guard of a jail's PID namespace,
/// which is no VMM, and whose end is the end of all.
pub(super) fn vmms() -> Vec<u32> {
    let is_vmm = |pid: &u32| {
        let name = stat(*pid).map(|stat| stat.comm).unwrap_or_default();
        ["qemu", "firecracker", "jailer"]
            .iter()
            .any(|vmm| name.starts_with(vmm))
    };
    let pids = children().unwrap_or_default();
    pids.into_iter().filter(is_vmm).collect()
}

/// How far the pool's clock jumps: from a minute to two hours.
pub(super) fn jump(rng: &mut Rng) -> Duration {
    Duration::from_secs(rng.u64(60..7200))
}

/// Replaces a file of a random snapshot, or takes it away. Clones that live keep the file they
/// mapped; whoever restores from now on meets the damage. Returns what was done; `None` if there
/// is no snapshot.
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

    #[test]
    fn only_children_of_this_process_are_killed_and_remembered() {
        let strikes = Strikes::default();
        let then = strikes.now();
        assert!(!strikes.kill(1), "not ours");
        assert!(!strikes.any_since(then));
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(!strikes.killed(pid));
        assert!(strikes.kill(pid));
        assert!(strikes.killed(pid) && strikes.any_since(then));
        assert!(!child.wait().unwrap().success());
        assert!(!strikes.kill(pid), "gone");
    }

    #[test]
    fn a_full_disk_strikes_for_as_long_as_it_is_full() {
        let strikes = Strikes::default();
        strikes.disk_is_full(true);
        let then = strikes.now();
        assert!(strikes.any_since(then));
        strikes.disk_is_full(false);
        assert!(strikes.any_since(then), "it was full then");
        assert!(strikes.disk_was_full_since(then));
        assert!(!strikes.disk_was_full_since(strikes.now()));
        assert!(!strikes.any_since(strikes.now()));
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
