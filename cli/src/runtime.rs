//! The async runtime, whose threads are there before they are needed.
//!
//! Tokio panics where it can't start its first thread, and waits for ever where it can't start one
//! for work that blocks. So it is found out beforehand whether the limits of this user and of its
//! control groups leave room, and threads for blocking work are started at once, and kept.

use std::fs;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_host::host_limits;
use tokio::runtime::{Builder, Runtime};

/// Threads for work that blocks which are always there: standard output and standard error may
/// each keep one from the rest for as long as nobody reads.
const BLOCKING: usize = 4;
/// What one VM takes beside: the thread that keeps its process, and that process with the threads
/// of its own. QEMU has most of them.
const OF_A_VM: usize = 8;
/// What it takes at least: one thread that works, and those.
const LEAST: usize = 1 + BLOCKING + OF_A_VM;
/// For threads that only prove that they can be started.
const SMALL_STACK: usize = 16 * 1024;
/// How long a thread may take to start, of which it was just found out that it can.
const THREAD_START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, and how far apart, it is looked whether threads that ended are gone.
const ALONE_ATTEMPTS: usize = 1000;
const ALONE_PAUSE: Duration = Duration::from_millis(1);
/// For ever, in terms of an operating system's clock.
const KEEP: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A runtime for a program that has a VM or more.
pub(crate) fn start() -> Result<Runtime> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let room = room_for(processors + BLOCKING + OF_A_VM)
        .with_context(|| format!("can't start {LEAST} threads, which a VM takes"))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(processors.min(room - BLOCKING - OF_A_VM))
        .thread_keep_alive(KEEP)
        .enable_all()
        .build()
        .context("can't start threads")?;
    start_blocking_threads(&runtime)?;
    Ok(runtime)
}

/// How many threads and processes can be started besides this one: `most`, or fewer. Less than a VM
/// takes ([`LEAST`]) is an error that names the limit.
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
    if started < LEAST {
        return Err(host_limits::of_start(error));
    }
    until_alone();
    Ok(started)
}

/// Waits until the kernel counts no thread beside this one any more: one that was joined it takes
/// back a moment later, of which nothing tells.
fn until_alone() {
    for _ in 0..ALONE_ATTEMPTS {
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads <= 1 {
            return;
        }
        thread::sleep(ALONE_PAUSE);
    }
}

/// Starts the threads for work that blocks, all of which wait for one another.
fn start_blocking_threads(runtime: &Runtime) -> Result<()> {
    let (up, started) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    for _ in 0..BLOCKING {
        let (up, gate) = (up.clone(), Arc::clone(&gate));
        runtime.spawn_blocking(move || {
            let _ = up.send(());
            drop(gate.lock());
        });
    }
    for _ in 0..BLOCKING {
        started
            .recv_timeout(THREAD_START_TIMEOUT)
            .context("threads that should have started did not")?;
    }
    drop(closed);
    Ok(())
}
