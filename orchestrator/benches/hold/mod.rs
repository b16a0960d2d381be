//! Measures ways to hold a clone until its lease: each from its release to its agent's answer.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use ironclaw_orchestrator::vm::firecracker::FirecrackerBinary;
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::bare::Paused;
use crate::bare::firecracker::Started;
use crate::turns::{Pair, Prepare};

/// Timeout of freezing a control group, which takes milliseconds.
const FREEZES: Duration = Duration::from_secs(10);

/// Compares the others, each in turns with a VMM stopped by a signal.
pub(crate) fn ways(
    group: &mut BenchmarkGroup<'_, WallTime>,
    firecracker: &FirecrackerBinary,
    snapshot: &Snapshot,
) {
    let restore = || Started::start(firecracker).load(snapshot);
    let stopped = || -> Prepare<'_> {
        Box::new(move || {
            let primed = restore().prime();
            let pid = pid(&primed);
            kill_process(pid, Signal::STOP).unwrap();
            let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
            assert!(status.stopped(), "{status:?}");
            Box::new(move || primed.ask_and(|| kill_process(pid, Signal::CONT).unwrap()))
        })
    };
    let paused: Prepare<'_> = Box::new(|| {
        let paused = restore().pause();
        Box::new(move || paused.resume_and_ask())
    });
    let loaded: Prepare<'_> = Box::new(|| {
        let loaded = Started::start(firecracker).load_paused(snapshot);
        Box::new(move || loaded.resume_and_ask())
    });
    if firecracker.quirks.hears_after_pause {
        let sides = [("PATCH /vm", paused), ("SIGSTOP", stopped())];
        compare(group, sides);
    } else {
        let version = &firecracker.version;
        println!("skipped: PATCH /vm, after which a guest of {version} hears nothing");
    }
    compare(
        group,
        [("loaded, not resumed", loaded), ("SIGSTOP ", stopped())],
    );
    match Freezer::find() {
        Some(root) => {
            let frozen: Prepare<'_> = Box::new(move || {
                let primed = restore().prime();
                let freezer = root.freeze(primed.pid());
                Box::new(move || {
                    let (took, clone) = primed.ask_and(|| freezer.thaw());
                    (took, Box::new((clone, freezer)) as Box<dyn Any>)
                })
            });
            compare(
                group,
                [("frozen control group", frozen), (" SIGSTOP", stopped())],
            );
        }
        None => println!("skipped: a frozen control group, which takes root and a freezer"),
    }
}

fn compare(group: &mut BenchmarkGroup<'_, WallTime>, sides: [(&'static str, Prepare<'_>); 2]) {
    let [one, other] = sides;
    let mut pair = Pair::new(one, other);
    pair.bench(group);
    pair.report();
}

fn pid(clone: &Paused) -> Pid {
    Pid::from_raw(i32::try_from(clone.pid()).unwrap()).unwrap()
}

/// A parent of control groups that can be frozen.
#[derive(Clone)]
struct Freezer {
    root: PathBuf,
    is_v2: bool,
}

/// A control group with one frozen VMM.
struct Frozen {
    group: PathBuf,
    is_v2: bool,
}

impl Freezer {
    fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (root, kind) = (fields.next()?, fields.next()?);
            let is_v2 = kind == "cgroup2";
            let freezes = is_v2 || kind == "cgroup" && fields.next()?.contains("freezer");
            let root = PathBuf::from(root);
            freezes.then_some(Self { root, is_v2 })
        });
        let mut mounts: Vec<_> = mounts.collect();
        mounts.sort_by_key(|mount| mount.is_v2);
        let probe = |mount: &Self| {
            let group = mount
                .root
                .join(format!("ironclaw-bench-{}", std::process::id()));
            fs::create_dir(&group)
                .and_then(|()| fs::remove_dir(group))
                .is_ok()
        };
        mounts.into_iter().find(probe)
    }

    fn freeze(&self, pid: u32) -> Frozen {
        let group = self.root.join(format!("ironclaw-bench-{pid}"));
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
        let frozen = Frozen {
            group,
            is_v2: self.is_v2,
        };
        frozen.set(true);
        // Version 1 has no event for that.
        let begun = Instant::now();
        while !frozen.is_frozen() {
            assert!(begun.elapsed() < FREEZES, "it does not freeze");
            std::thread::sleep(Duration::from_micros(100));
        }
        frozen
    }
}

impl Frozen {
    fn set(&self, frozen: bool) {
        let (file, value) = match (self.is_v2, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        fs::write(self.group.join(file), value).unwrap();
    }

    fn is_frozen(&self) -> bool {
        let (file, says) = if self.is_v2 {
            ("cgroup.events", "frozen 1")
        } else {
            ("freezer.state", "FROZEN")
        };
        let state = |path: &Path| fs::read_to_string(path).unwrap();
        state(&self.group.join(file)).contains(says)
    }

    fn thaw(&self) {
        self.set(false);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The process is reaped first: until then the group is not empty.
        let _ = fs::remove_dir(&self.group);
    }
}
