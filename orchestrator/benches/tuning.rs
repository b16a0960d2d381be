//! Measures ideas to make spawns faster, each in turns with the implementation without it: `cargo
//! xtask setup && cargo bench --bench tuning`. docs/benchmarks.md has the results.
//!
//! Firecracker is measured with the minimal client, so that our own code does not blur the
//! difference. The page cache is measured with restores of our own under any hypervisor.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[allow(dead_code, reason = "snapshot_pool.rs uses the rest")]
mod bare;
mod hold;
mod page_faults;
mod turns;

use std::any::Any;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bare::Paused;
use bare::firecracker::Started;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use ironclaw_orchestrator::vm::firecracker::{self, FirecrackerBinary};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{Config, Launcher, Origin, Pool, PoolOptions, Stage};
use page_faults::{Handler, WorkingSet};
use rustix::fs::{Advice, fadvise};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use turns::{Measure, Pair, Prepare};

/// Priority of a vCPU's thread over the other threads' 0, as in nice(2).
const NICE: i32 = -10;

fn tuning(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let config = Config::from_env().unwrap();
    let progress = Arc::new(|stage: &Stage| eprintln!("{stage}"));
    let launcher = match runtime.block_on(Launcher::open(&config, progress)) {
        Ok(launcher) => launcher,
        Err(error) => return println!("skipped: {error}"),
    };
    let vmm = launcher.vmm();
    let mut group = criterion.benchmark_group(format!("{}-{}", vmm.kind, vmm.accelerator));
    group.sample_size(20);
    if vmm.kind == firecracker::KIND {
        let found = FirecrackerBinary::find(config.backends.firecracker.binary.as_deref());
        let firecracker = runtime.block_on(found).unwrap();
        let firecracker = &firecracker;
        let created = runtime.block_on(launcher.create_snapshot()).unwrap();
        let snapshot = &created.snapshot;
        beforehand(&mut group, firecracker, snapshot);
        hold::ways(&mut group, firecracker, snapshot);
        threads(&mut group, firecracker, snapshot);
        page_faults(&mut group, firecracker, snapshot);
        let id = snapshot.id();
        drop(created);
        launcher.snapshots().delete(id).unwrap();
    } else {
        println!("skipped: threads and processes, whose client speaks to Firecracker only");
    }
    page_cache(&mut group, &runtime, &config);
    group.finish();
}

/// Compares with a process that was started in advance.
fn beforehand(
    group: &mut BenchmarkGroup<'_, WallTime>,
    firecracker: &FirecrackerBinary,
    snapshot: &Snapshot,
) {
    let waiting: Prepare<'_> = Box::new(|| {
        let started = Started::start(firecracker);
        Box::new(move || {
            let start = Instant::now();
            let bare = started.load(snapshot);
            let took = start.elapsed();
            bare.stop();
            (took, Box::new(bare) as Box<dyn Any>)
        })
    });
    let on_demand: Prepare<'_> = Box::new(|| {
        Box::new(|| {
            let start = Instant::now();
            let bare = Started::start(firecracker).load(snapshot);
            let took = start.elapsed();
            bare.stop();
            (took, Box::new(bare) as Box<dyn Any>)
        })
    });
    let mut pair = Pair::new(
        ("load into a process that waits", waiting),
        ("start and load", on_demand),
    );
    pair.bench(group);
    pair.report();
}

/// Compares who provides the guest's memory: the kernel, from a private mapping of the file, or a
/// userfaultfd handler, on demand or in advance.
fn page_faults(
    group: &mut BenchmarkGroup<'_, WallTime>,
    firecracker: &FirecrackerBinary,
    snapshot: &Snapshot,
) {
    let mapped = || -> Prepare<'_> {
        Box::new(|| {
            let started = Started::start(firecracker);
            Box::new(|| {
                let start = Instant::now();
                let mut bare = started.load(snapshot);
                bare.ask();
                let took = start.elapsed();
                bare.stop();
                (took, Box::new(bare) as Box<dyn Any>)
            })
        })
    };
    let handled = |first: Vec<u64>, asked: WorkingSet| -> Prepare<'_> {
        Box::new(move || {
            let started = Started::start(firecracker);
            let (first, asked) = (first.clone(), Arc::clone(&asked));
            let file = snapshot.memory();
            let handler = Handler::listen(started.directory(), file, first, asked);
            Box::new(move || {
                let start = Instant::now();
                let mut bare = started.load_from(snapshot, "Uffd", handler.socket());
                bare.ask();
                let took = start.elapsed();
                bare.stop();
                (took, Box::new((bare, handler)) as Box<dyn Any>)
            })
        })
    };
    // The pages that one clone touches until its first answer are those that others touch.
    let set = WorkingSet::default();
    let (_, clone) = handled(Vec::new(), Arc::clone(&set))()();
    drop(clone);
    let set = std::mem::take(&mut *set.lock().unwrap());
    println!(
        "pages that a clone asks for until its first answer: {}",
        set.len()
    );
    for (name, other, first) in [
        (
            "memory by userfaultfd",
            "memory by a private mapping",
            Vec::new(),
        ),
        (
            "memory by userfaultfd, the working set beforehand",
            "memory by a private mapping, again",
            set,
        ),
    ] {
        let mut pair = Pair::new(
            (name, handled(first, WorkingSet::default())),
            (other, mapped()),
        );
        pair.bench(group);
        pair.report();
    }
}

/// Compares scheduler settings of the threads that run the guest.
fn threads(
    group: &mut BenchmarkGroup<'_, WallTime>,
    firecracker: &FirecrackerBinary,
    snapshot: &Snapshot,
) {
    let resume = |tell: fn(&Paused)| -> Prepare<'_> {
        Box::new(move || {
            let paused = Started::start(firecracker).load(snapshot).pause();
            tell(&paused);
            Box::new(move || paused.resume_and_ask()) as Measure<'_>
        })
    };
    for mut pair in [
        Pair::new(
            ("vCPU pinned to a processor", resume(pin)),
            ("vCPU not pinned", resume(|_| {})),
        ),
        Pair::new(
            ("vCPU with priority", resume(prefer)),
            ("vCPU without priority", resume(|_| {})),
        ),
    ] {
        pair.bench(group);
        pair.report();
    }
}

fn pin(paused: &Paused) {
    let mut last = CpuSet::new();
    last.set(std::thread::available_parallelism().unwrap().get() - 1);
    for vcpu in paused.vcpus() {
        sched_setaffinity(Some(vcpu), &last).unwrap();
    }
}

fn prefer(paused: &Paused) {
    for vcpu in paused.vcpus() {
        rustix::process::setpriority_process(Some(vcpu), NICE).expect("CAP_SYS_NICE");
    }
}

/// A pool of one snapshot, in a directory of its own.
struct Own {
    pool: Pool,
    memory: PathBuf,
    _directory: TempDir,
}

impl Own {
    fn make(runtime: &Runtime, config: &Config) -> Self {
        // Beside the real one: a tmpfs has no page cache to evict.
        let beside = config.snapshot_path.parent().unwrap();
        std::fs::create_dir_all(beside).unwrap();
        let directory = tempfile::tempdir_in(beside).unwrap();
        let mut config = config.clone();
        config.snapshot_path = directory.path().join("snapshots");
        runtime.block_on(async {
            let launcher = Launcher::open(&config, Arc::new(|_| {})).await.unwrap();
            let created = launcher.create_snapshot().await.unwrap();
            let memory = created.snapshot.memory().to_path_buf();
            drop(created);
            let options = PoolOptions::new(1).with_warm(0);
            let pool = Pool::open(launcher, options).await.unwrap();
            pool.warmup().await.unwrap();
            Self {
                pool,
                memory,
                _directory: directory,
            }
        })
    }

    fn evict(&self) {
        let memory = File::open(&self.memory).unwrap();
        // Dirty pages can't be evicted.
        memory.sync_all().unwrap();
        fadvise(&memory, 0, None, Advice::DontNeed).unwrap();
    }

    fn fetch(&self) {
        let memory = File::open(&self.memory).unwrap();
        fadvise(&memory, 0, None, Advice::WillNeed).unwrap();
    }

    /// Measures a restore; the clone is gone on return, with its memory.
    fn restore(&self, runtime: &Runtime, first: fn(&Self)) -> Measure<'_> {
        let handle = runtime.handle().clone();
        Box::new(move || {
            let start = Instant::now();
            first(self);
            let took = handle.block_on(async {
                let vm = self.pool.spawn("bench").await.unwrap();
                let took = start.elapsed();
                assert_eq!(vm.origin(), Origin::Restored);
                vm.destroy().await.unwrap();
                took
            });
            (took, Box::new(()) as Box<dyn Any>)
        })
    }
}

/// Compares where the snapshot's memory file is at the start of a restore.
fn page_cache(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, config: &Config) {
    let (one, other) = (Own::make(runtime, config), Own::make(runtime, config));
    let cached: Prepare<'_> = Box::new(|| one.restore(runtime, |_| {}));
    let evicted: Prepare<'_> = Box::new(|| {
        other.evict();
        other.restore(runtime, |_| {})
    });
    let mut pair = Pair::new(
        ("restore from the disk", evicted),
        ("restore from the page cache", cached),
    );
    pair.bench(group);
    pair.report();

    let fetched: Prepare<'_> = Box::new(|| {
        one.evict();
        one.restore(runtime, Own::fetch)
    });
    let on_demand: Prepare<'_> = Box::new(|| {
        other.evict();
        other.restore(runtime, |_| {})
    });
    let mut pair = Pair::new(
        ("restore from the disk, all of it asked for first", fetched),
        ("restore from the disk, page by page", on_demand),
    );
    pair.bench(group);
    pair.report();
    runtime.block_on(async {
        one.pool.clone().close().await;
        other.pool.clone().close().await;
    });
}

criterion_group!(benches, tuning);
criterion_main!(benches);
