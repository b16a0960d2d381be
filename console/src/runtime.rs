//! Starts the async runtime, with threads that exist before they are needed.
//!
//! Tokio panics if it can't start its first thread, and waits for ever if it can't start one for
//! blocking work. So the limits of this user and its control groups are probed first, and threads
//! for blocking work are started at once and kept.

use std::fs;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_host::host_limits;
use tokio::runtime::{Builder, Runtime};

/// Threads for blocking work that always exist: standard output and standard error may each block
/// one for as long as nobody reads.
const BLOCKING_THREADS: usize = 4;
/// Threads and processes for one VM: the supervisor thread, and the VMM's process with its own
/// threads, of which QEMU has most.
const THREADS_PER_VM: usize = 8;
/// The minimum: one worker thread, and the above.
const MIN_THREADS: usize = 1 + BLOCKING_THREADS + THREADS_PER_VM;
/// The stack size of threads that only probe the limit.
const SMALL_STACK: usize = 16 * 1024;
/// Timeout of a thread's start, after the probe has shown that it can start.
const THREAD_START_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of checks whether ended threads are gone, and the pause between them.
const ALONE_ATTEMPTS: usize = 1000;
const ALONE_PAUSE: Duration = Duration::from_millis(1);
/// Practically for ever; an operating system's clock can't express more.
const KEEP_ALIVE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Starts a runtime for a program that has at least one VM.
///
/// # Errors
/// The limit that leaves no room for its threads.
pub fn start() -> Result<Runtime> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let room = room_for(processors + BLOCKING_THREADS + THREADS_PER_VM)
        .with_context(|| format!("can't start {MIN_THREADS} threads, which a VM takes"))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(processors.min(room - BLOCKING_THREADS - THREADS_PER_VM))
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build()
        .context("can't start threads")?;
    start_blocking_threads(&runtime)?;
    Ok(runtime)
}

/// Returns how many more threads and processes can be started, up to `most`. Fails with the name of
/// the limit if there are fewer than one VM needs ([`MIN_THREADS`]).
fn room_for(most: usize) -> io::Result<usize> {
    let gate = Mutex::new(());
    let mut started = 0;
    let refused = thread::scope(|scope| {
        let _closed = gate.lock();
        while started < most {
            let thread = thread::Builder::new().stack_size(SMALL_STACK);
            match thread.spawn_scoped(scope, || drop(gate.lock())) {
                Ok(_) => started += 1,
                Err(error) => return Some(error),
            }
        }
        None
    });
    let Some(error) = refused else {
        return Ok(started);
    };
    if started < MIN_THREADS {
        return Err(host_limits::of_start(error));
    }
    until_alone();
    Ok(started)
}

/// Waits until the kernel counts no other thread of this process: it releases a joined thread a
/// moment later, without any event.
fn until_alone() {
    for _ in 0..ALONE_ATTEMPTS {
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads <= 1 {
            return;
        }
        thread::sleep(ALONE_PAUSE);
    }
}

/// Starts the threads for blocking work: each blocks until all of them run.
fn start_blocking_threads(runtime: &Runtime) -> Result<()> {
    let (up, started) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    for _ in 0..BLOCKING_THREADS {
        let (up, gate) = (up.clone(), Arc::clone(&gate));
        runtime.spawn_blocking(move || {
            let _ = up.send(());
            drop(gate.lock());
        });
    }
    for _ in 0..BLOCKING_THREADS {
        started
            .recv_timeout(THREAD_START_TIMEOUT)
            .context("threads that should have started did not")?;
    }
    drop(closed);
    Ok(())
}
