//! One contract for every backend, and faults that only a simulator can inject.
//!
//! `contract::…`, `damage::…`, `life::…` and parts of `embedding::…` run against QEMU, the real Firecracker
//! and the simulator; they are ignored for one that is missing. `crash::…` kills a process that
//! uses a backend, at any moment; `devices::…`, `every_call::…`, `faults::…`, `maker::…`,
//! `reboot::…` and `room::…` run against the simulator; `honesty::…` compares the simulator with
//! the real one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

// The `test` attributes are those of the harness; everything else of Tokio is Tokio's.
#[macro_use]
#[allow(unused_imports, reason = "all tests are asynchronous so far")]
extern crate ironclaw_test_harness as tokio;

/// The trials of a module: each of these functions, with each backend.
macro_rules! on_each_vmm {
    ($module:literal: $($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            let of_kind = |kind: crate::backend::Kind| {
                [$(crate::trial(
                    format!("{}::{}::{}", $module, kind.name(), stringify!($name)),
                    move || crate::contract::on(kind, async |backend| $name(backend).await),
                )),*]
            };
            crate::backend::Kind::ALL.into_iter().flat_map(of_kind).collect()
        }
    };
}

mod backend;
mod changes;
mod checkpoint;
mod contract;
mod crash;
mod damage;
mod devices;
mod disk;
mod embedding;
mod every_call;
mod faults;
mod full_disk;
mod honesty;
mod inject;
mod life;
#[path = "../shared/limit.rs"]
mod limit;
mod maker;
#[path = "../shared/real.rs"]
mod real;
mod reboot;
#[path = "../shared/required.rs"]
mod required;
mod room;
#[path = "../shared/root_image.rs"]
mod root_image;
mod simulator;
#[path = "../shared/small_disk.rs"]
mod small_disk;
mod taken_over;
mod victim;
#[path = "../shared/within.rs"]
mod within;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use tokio::runtime::Builder;
use tokio::time::timeout;

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program);
    if program
        .file_name()
        .is_some_and(|name| name == simulator::NAME)
    {
        return simulator::run(program);
    }
    if let Some(life) = victim::Life::from_env() {
        return life.live();
    }
    if let Some(code) = taken_over::as_ordinary_user() {
        return code;
    }
    let trials = [
        checkpoint::trials(),
        contract::trials(),
        crash::trials(),
        damage::trials(),
        devices::trials(),
        changes::trials(),
        disk::trials(),
        embedding::trials(),
        every_call::trials(),
        faults::trials(),
        full_disk::trials(),
        honesty::trials(),
        life::trials(),
        maker::trials(),
        reboot::trials(),
        room::trials(),
        taken_over::trials(),
    ];
    ironclaw_test_harness::run(trials.into_iter().flatten().collect())
}

/// Timeout of a trial; the longest takes two minutes.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Creates a trial with a runtime of its own.
fn trial<F: Future<Output = ()>>(name: String, test: impl FnOnce() -> F + Send + 'static) -> Trial {
    ironclaw_test_harness::trial(name, move || run(Builder::new_multi_thread(), test))
}

/// Creates a trial that advances the runtime's clock, which needs a single-threaded runtime.
fn trial_on_one_thread<F: Future<Output = ()>>(
    name: String,
    test: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    ironclaw_test_harness::trial(name, move || run(Builder::new_current_thread(), test))
}

fn run<F: Future<Output = ()>>(mut on: Builder, test: impl FnOnce() -> F) -> Result<(), Failed> {
    let runtime = on.enable_all().build()?;
    let over = runtime.block_on(async { timeout(TRIAL_TIMEOUT, test()).await });
    if over.is_err() {
        // Does not wait for tasks that hang.
        runtime.shutdown_background();
        return Err(format!("it is not over after {TRIAL_TIMEOUT:?}").into());
    }
    Ok(())
}
