//! Tests the library in a program that has problems of its own.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironclaw_orchestrator::vm::{
    self, Budget, Command, FailureKind, GuestError, LaunchError, Launcher, Limit, Pool, PoolError,
    PoolOptions, SpawnError, SpawnOptions, Stage, VmId,
};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use crate::backend::{Backend, Kind};
use crate::contract::on;
use crate::faults::with;
use crate::room::{of_vms, pool, until};
use crate::simulator::{Fault, Simulator};
use crate::trial;
use crate::within::within;

/// The time limit of a command.
const LIMIT: Duration = Duration::from_millis(500);

pub(crate) fn trials() -> Vec<Trial> {
    let of_simulator = [
        trial(
            "embedding::a_panic_in_the_callback_fails_the_work_and_no_more".into(),
            || with(async |b, _| a_panic_in_the_callback(b).await),
        ),
        trial(
            "embedding::a_spawn_waiting_for_other_starts_reports_that_and_not_missing_room".into(),
            || with(async |b, s| others_start_first(b, s).await),
        ),
        trial(
            "embedding::a_spawn_s_limit_holds_whatever_hangs".into(),
            || with(async |b, s| a_spawn_s_limit_holds(b, s).await),
        ),
    ];
    let of_all = Kind::ALL.into_iter().flat_map(|kind| {
        let stopped = "a_limit_of_a_command_holds_although_its_vmm_is_stopped";
        let warm = "a_warm_clone_that_somebody_stopped_serves_or_is_replaced";
        let files = "a_file_of_any_size_streams_into_the_guest_and_back";
        [
            trial(format!("embedding::{}::{files}", kind.name()), move || {
                on(kind, async |backend| files_stream(backend).await)
            }),
            trial(
                format!("embedding::{}::{stopped}", kind.name()),
                move || on(kind, async |backend| a_stopped_vmm(backend).await),
            ),
            trial(format!("embedding::{}::{warm}", kind.name()), move || {
                on(kind, async |backend| a_stopped_warm_clone(backend).await)
            }),
        ]
    });
    of_simulator.into_iter().chain(of_all).collect()
}

fn stop(process: u32) {
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_pool_whose_runtime_ended_says_so_at_once() {
    let (first, second) = (runtime(), runtime());
    let backend = first.block_on(Kind::Simulator.start()).unwrap();
    let pool = first.block_on(pool(&backend.launcher, 0, &of_vms(1)));
    let vm = first.block_on(pool.spawn("held")).unwrap();
    let running = first.block_on(vm.start(["sleep", "3600000"])).unwrap();
    let queued = second.spawn({
        let pool = pool.clone();
        async move {
            let patient = SpawnOptions::named("queued")
                .with_patience(Duration::from_secs(3600))
                .with_timeout(None);
            pool.spawn_with(patient).await
        }
    });
    second.block_on(until("a spawn waits", || pool.stats().waiting == 1));
    drop(first);
    second.block_on(within("what fails at once", async {
        let error = queued.await.unwrap().unwrap_err();
        assert!(matches!(error, SpawnError::RuntimeEnded), "{error}");
        let error = pool.spawn("later").await.unwrap_err();
        assert!(matches!(error, SpawnError::RuntimeEnded), "{error}");
        for error in [pool.warmup().await, pool.refresh().await] {
            let error = error.unwrap_err();
            assert!(matches!(error, PoolError::RuntimeEnded), "{error}");
            assert!(error.to_string().contains("runtime"), "{error}");
        }
        let begun = running.output().await.map(drop);
        for error in [begun, vm.exec(["echo", "on"]).await.map(drop)] {
            let error = error.unwrap_err();
            assert!(matches!(error, GuestError::Closed { .. }), "{error:?}");
            assert!(error.to_string().contains("runtime"), "{error}");
        }
        drop(vm);
        pool.close().await;
        backend.nothing_is_left().await;
    }));
}

/// Set where a test runs in a process of its own.
const ALONE: &str = "IRONCLAW_TEST_ALONE";

/// Returns whether this process is the test's own; otherwise runs the test in one that is.
fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", &format!("embedding::{test}")]);
    // Without it, the default pool can't be opened.
    alone
        .env(ALONE, "1")
        .env("IRONCLAW_TEMPLATE_PATH", "/dev/null/templates");
    let output = alone.output().unwrap();
    let has_passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && has_passed, "{output:?}");
    false
}

/// In a process of its own: the host's budget is shared by all tests of a process.
#[tokio::test(flavor = "multi_thread")]
async fn pools_of_other_limits_have_the_host_s_memory_in_common() {
    if !is_alone("pools_of_other_limits_have_the_host_s_memory_in_common") {
        return;
    }
    let b = Kind::Simulator.start().await.unwrap();
    let host = Budget::of_host().limit();
    let mut config = b.config.clone();
    // Two of them do not fit.
    config.machine.memory_mib = u32::try_from(host.memory_mib / 8 * 5).unwrap();
    config.max_vms = Some(2);
    let open = async |options: PoolOptions| {
        let (vmm, template) = (Arc::clone(&b.vmm), b.launcher.template().clone());
        let (snapshots, progress) = (b.launcher.snapshots().clone(), Arc::new(|_: &Stage| ()));
        let launcher = Launcher::with(vmm, template, &config, snapshots, progress).unwrap();
        Pool::open(launcher, options.with_warm(0)).await.unwrap()
    };
    let of_settings = open(PoolOptions::from(&config)).await;
    let of_host = open(PoolOptions::new(1)).await;
    for (serves, full) in [(&of_settings, &of_host), (&of_host, &of_settings)] {
        let vm = serves.spawn("has the memory").await.unwrap();
        assert_eq!(of_host.stats().used.vms, 1);
        let options = SpawnOptions::named("impatient").with_patience(Duration::from_millis(50));
        let error = full.spawn_with(options).await.unwrap_err();
        let SpawnError::PoolExhausted { limit, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(limit.memory_mib, host.memory_mib);
        let waits = tokio::spawn({
            let full = full.clone();
            async move { full.spawn("waits").await }
        });
        until("a spawn waits", || full.stats().waiting == 1).await;
        vm.destroy().await.unwrap();
        let waited = within("a spawn", waits).await.unwrap().unwrap();
        waited.destroy().await.unwrap();
    }
    of_settings.close().await;
    of_host.close().await;
    assert_eq!(Budget::of_host().used(), Limit::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_of_all_pools_and_opens_none() {
    if !is_alone("a_scrape_tells_of_all_pools_and_opens_none") {
        return;
    }
    assert_eq!(vm::prometheus_text().await.unwrap(), "");
    assert!(vm::pools().is_empty());
    let backend = Kind::Simulator.start().await.unwrap();
    let open = || async {
        let options = PoolOptions::new(1).with_warm(0);
        Pool::open(backend.launcher.clone(), options).await.unwrap()
    };
    let (one, other) = (open().await, open().await);
    let vm = one.spawn("served").await.unwrap();
    let text = vm::prometheus_text().await.unwrap();
    let leased: Vec<_> = text
        .lines()
        .filter(|line| line.contains("state=\"leased\""))
        .map(|line| {
            (
                line.contains("pool=\"1\""),
                line.rsplit(' ').next().unwrap(),
            )
        })
        .collect();
    assert!(leased.len() == 2, "{text}");
    assert!(
        leased.contains(&(true, "1")) && leased.contains(&(false, "0")),
        "{text}"
    );
    // By default, they share the host's budget.
    assert_eq!(one.stats().used, other.stats().used);
    assert_eq!(other.stats().used.vms, 1);
    let numbers = || -> Vec<_> {
        let pools = vm::pools().into_iter();
        pools.map(|pool| pool.stats().number).collect()
    };
    assert_eq!(numbers(), [1, 2]);
    vm.destroy().await.unwrap();
    one.close().await;
    assert_eq!(numbers(), [2]);
    let text = vm::prometheus_text().await.unwrap();
    assert!(
        !text.contains("pool=\"1\"") && text.contains("pool=\"2\""),
        "{text}"
    );
    other.close().await;
}

/// Creates a launcher whose callback panics once.
fn panicking(b: &Backend) -> Launcher {
    let calm = AtomicBool::new(false);
    let progress = move |_: &Stage| {
        assert!(calm.swap(true, Ordering::Relaxed), "not in the mood");
    };
    let (vmm, template) = (Arc::clone(&b.vmm), b.launcher.template().clone());
    let snapshots = b.launcher.snapshots().clone();
    Launcher::with(vmm, template, &b.config, snapshots, Arc::new(progress)).unwrap()
}

async fn a_panic_in_the_callback(b: &Backend) {
    let pool = Pool::open(panicking(b), PoolOptions::new(1)).await.unwrap();
    let error = within("a warm-up", pool.warmup()).await.unwrap_err();
    let PoolError::WarmUp(error) = error else {
        panic!("{error}");
    };
    assert!(matches!(*error, LaunchError::Panicked { .. }), "{error}");
    assert!(error.to_string().contains("not in the mood"), "{error}");
    within("a warm-up", pool.warmup()).await.unwrap();
    assert_eq!((pool.stats().building, pool.stats().warm), (0, 1));
    pool.close().await;
}

/// Starts as many spawns as may start at a time, all of which hang.
async fn all_starts_hang(s: &Simulator, pool: &Pool) -> Vec<tokio::task::AbortHandle> {
    let hang = (0..pool.stats().starts_at_a_time).map(|_| {
        s.inject("PUT /snapshot/load", Fault::Hang);
        let pool = pool.clone();
        tokio::spawn(async move { pool.spawn("hangs").await }).abort_handle()
    });
    let hang = hang.collect();
    until("as many hang as may start", || s.waiting() == 0).await;
    hang
}

async fn others_start_first(b: &Backend, s: &Simulator) {
    let budget = of_vms(64);
    // Leaves nothing but spawns to start.
    drop(b.launcher.create_snapshot().await.unwrap());
    let pool = pool(&b.launcher, 0, &budget).await;
    let hang = all_starts_hang(s, &pool).await;
    let options = SpawnOptions::named("impatient").with_patience(Duration::from_millis(100));
    let error = pool.spawn_with(options).await.unwrap_err();
    let SpawnError::StartsBusy { starts, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(starts, hang.len());
    let text = error.to_string();
    assert!(
        !text.contains("room") && text.contains("patience"),
        "{text}"
    );
    hang.iter().for_each(|spawn| spawn.abort());
    pool.close().await;
}

async fn a_spawn_s_limit_holds(b: &Backend, s: &Simulator) {
    drop(b.launcher.create_snapshot().await.unwrap());
    let pool = pool(&b.launcher, 0, &of_vms(64)).await;
    s.inject("PUT /snapshot/load", Fault::Hang);
    let options = SpawnOptions::named("late").with_timeout(LIMIT);
    let spawn = within("a spawn", pool.spawn_with(options));
    let error = spawn.await.unwrap_err();
    assert!(
        matches!(error, SpawnError::TimedOut { after, .. } if after == LIMIT),
        "{error}"
    );
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
}

/// Pieces of a file: more than any buffer on the way holds, less than the bare-metal guest takes.
const PIECES: u64 = 9;

/// A file that is larger than any buffer on the way goes into the guest and back, while others are
/// served.
async fn files_stream(backend: &Backend) {
    let vm = backend.launcher.cold_boot("files").await.unwrap();
    let piece: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut file = vm.create_file("/tmp/large", 0o600).await.unwrap();
    for _ in 0..PIECES {
        file.write_all(&piece).await.unwrap();
    }
    assert_eq!(vm.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    assert_eq!(file.finish().await.unwrap(), PIECES * 100_000);
    let mut file = vm.open_file("/tmp/large").await.unwrap();
    let mut read = vec![0; piece.len()];
    for _ in 0..PIECES {
        file.read_exact(&mut read).await.unwrap();
        assert!(read == piece, "it is another");
    }
    assert_eq!(file.read(&mut read).await.unwrap(), 0);
    let unfinished = vm.create_file("/tmp/unfinished", 0o600).await.unwrap();
    drop(unfinished);
    let missing = vm.open_file("/tmp/unfinished").await.unwrap_err();
    let GuestError::Failed { kind, .. } = missing else {
        panic!("{missing}");
    };
    assert_eq!(kind, FailureKind::NotFound);
    vm.destroy().await.unwrap();
}

/// Collects events as a log file has them.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// On one thread, whose events are collected.
#[tokio::test]
async fn events_name_the_vm_that_they_are_about() {
    let b = Kind::Simulator.start().await.unwrap();
    let pool = pool(&b.launcher, 0, &of_vms(2)).await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let collecting = tracing::subscriber::set_default(subscriber);
    let one = pool.spawn("alpha").await.unwrap();
    let other = pool.spawn("beta").await.unwrap();
    let short = Some(std::time::Instant::now());
    one.set_deadline(short).await.unwrap();
    within("an end", one.wait()).await;
    let error = pool.spawn("").await.unwrap_err();
    assert!(matches!(error, SpawnError::Name(_)), "{error}");
    let ids = [one.id(), other.id()];
    other.destroy().await.unwrap();
    drop(collecting);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let of = |id: VmId, name: &str, event: &str| {
        let mut lines = text.lines();
        let span = format!("vm{{id={id} name=\"{name}\"}}");
        assert!(
            lines.any(|line| line.contains(&span) && line.contains(event)),
            "{span} {event}:\n{text}"
        );
    };
    of(ids[0], "alpha", "a VM is handed out");
    of(ids[0], "alpha", "a VM is killed");
    of(ids[0], "alpha", "a VM is over");
    of(ids[1], "beta", "a VM is handed out");
    of(ids[1], "beta", "a VM is over");
    let told = |event: &str| text.lines().filter(|line| line.contains(event)).count();
    assert_eq!((told("is handed out"), told("is over")), (2, 2), "{text}");
    pool.close().await;
    b.nothing_is_left().await;
}

async fn a_stopped_vmm(backend: &Backend) {
    let vm = backend.launcher.cold_boot("stopped").await.unwrap();
    stop(vm.pid());
    let command = Command::from(["echo", "on"]).timeout(LIMIT);
    let error = within("a command", vm.exec(command)).await.unwrap_err();
    let GuestError::NoAnswer { after, .. } = error else {
        panic!("{error}");
    };
    assert!(after < LIMIT + Duration::from_secs(1), "{error}");
    vm.destroy().await.unwrap();
}

async fn a_stopped_warm_clone(backend: &Backend) {
    let pool = pool(&backend.launcher, 1, &of_vms(8)).await;
    pool.warmup().await.unwrap();
    stop(pool.warm_pids()[0]);
    let vm = within("a spawn", pool.spawn("served")).await.unwrap();
    assert_eq!(vm.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    vm.destroy().await.unwrap();
    pool.close().await;
}
