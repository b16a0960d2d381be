//! The workers of a soak, which repeat the cycle of a VM.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use ironclaw_console::causes;
use ironclaw_orchestrator::vm::{Limits, Pool, SpawnOptions, VmHandle};
use tokio::time::{Instant, timeout};

use super::fault::Strikes;
use super::guest::{self, Deed, Dialect, Mishap};
use super::stop::Stop;
use super::tally::{Blame, Tally};

/// Timeout of a spawn, and of anything that should end by itself.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Milliseconds after which a spawn is cancelled, at most.
const MAX_CANCEL_MILLIS: u64 = 30;
/// Limit of the lifetime of a VM with one, in milliseconds.
const MAX_LIFETIME_MILLIS: u64 = 200;
/// Limit of tasks in one VM.
const MAX_DEEDS: usize = 3;

/// The time when the workers stop.
#[derive(Debug)]
pub(super) struct Until {
    pub(super) deadline: Option<Instant>,
    pub(super) spawns: Option<u64>,
}

impl Until {
    /// Returns the part that is over of what begun at `begun` and has made so many, from 0 to 1, by time or
    /// by number, whichever is greater.
    pub(super) fn progress(&self, begun: Instant, made: u64) -> f64 {
        let part = |done: f64, all: f64| if all > 0.0 { done / all } else { 1.0 };
        let time = self.deadline.map(|deadline| {
            let all = deadline.saturating_duration_since(begun);
            part(begun.elapsed().as_secs_f64(), all.as_secs_f64())
        });
        let number = self.spawns.map(|spawns| {
            // Precise enough for display and comparison with a quarter.
            #[expect(clippy::cast_precision_loss, reason = "a share, for people")]
            let share = part(made as f64, spawns as f64);
            share
        });
        time.unwrap_or(0.0).max(number.unwrap_or(0.0)).min(1.0)
    }
}

/// The state shared by the workers.
#[derive(Debug)]
pub(super) struct Shift {
    pub(super) pool: Pool,
    pub(super) dialect: Dialect,
    /// Whether workers kill VMs.
    pub(super) faults: bool,
    pub(super) strikes: Strikes,
    pub(super) until: Until,
    begun: Instant,
    numbers: AtomicU64,
    stop: Stop,
    tally: Mutex<Tally>,
}

impl Shift {
    pub(super) fn new(
        pool: Pool,
        dialect: Dialect,
        faults: bool,
        until: Until,
        stop: Stop,
    ) -> Self {
        Self {
            pool,
            dialect,
            faults,
            until,
            stop,
            strikes: Strikes::default(),
            begun: Instant::now(),
            numbers: AtomicU64::new(0),
            tally: Mutex::default(),
        }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.is_asked()
    }

    /// Returns the part that is over, see [`Until::progress`].
    pub(super) fn progress(&self) -> f64 {
        self.until
            .progress(self.begun, self.numbers.load(Ordering::Relaxed))
    }

    /// Returns the number of the next spawn; `None` when it is time to stop.
    fn next(&self) -> Option<u64> {
        let over = self
            .until
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        if over || self.stopped() {
            return None;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        match self.until.spawns {
            Some(spawns) if number >= spawns => None,
            _ => Some(number),
        }
    }

    /// Returns whether a fault explains that this VM, requested at `then`, failed.
    fn struck(&self, vm: &VmHandle, then: Instant) -> bool {
        self.strikes.killed(vm.pid()) || self.strikes.disk_was_full_since(then)
    }

    /// Counts a failure; `injected` ones are expected.
    fn failed(&self, injected: bool, what: &'static str, text: &str) {
        let blame = if injected {
            Blame::Injected
        } else {
            tracing::warn!(what, text, "an unexpected failure");
            Blame::Unexpected
        };
        self.tally().failed(blame, what, text);
    }
}

/// Runs one worker until it is time to stop.
pub(super) async fn work(shift: Arc<Shift>, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while let Some(number) = shift.next() {
        let name = format!("soak-{number}");
        match rng.u8(..100) {
            0..6 => taken_back(&shift, &name, &mut rng).await,
            _ => cycle(&shift, &name, &mut rng).await,
        }
    }
}

async fn taken_back(shift: &Shift, name: &str, rng: &mut Rng) {
    let patience = Duration::from_millis(rng.u64(..MAX_CANCEL_MILLIS));
    let then = Instant::now();
    match timeout(patience, shift.pool.spawn(name)).await {
        Err(_) => shift.tally().cancelled += 1,
        Ok(Ok(vm)) => {
            let mut tally = shift.tally();
            tally.served(&vm);
            tally.ended("dropped at once");
        }
        Ok(Err(error)) => {
            let injected = shift.strikes.explain(then, &error);
            shift.failed(injected, "spawn", &causes(&error));
        }
    }
}

async fn cycle(shift: &Shift, name: &str, rng: &mut Rng) {
    let mut options = SpawnOptions::named(name);
    options.patience = TIMEOUT;
    let short_lived = rng.u8(..100) < 3;
    if short_lived {
        options.limits = Limits::default()
            .with_max_lifetime(Duration::from_millis(rng.u64(1..MAX_LIFETIME_MILLIS)));
    }
    let then = Instant::now();
    let vm = match timeout(2 * TIMEOUT, shift.pool.spawn_with(options)).await {
        Ok(Ok(vm)) => vm,
        Ok(Err(error)) => {
            let injected = shift.strikes.explain(then, &error);
            return shift.failed(injected, "spawn", &causes(&error));
        }
        Err(_) => {
            let text = format!("no answer within {:?}", 2 * TIMEOUT);
            return shift.failed(false, "spawn", &text);
        }
    };
    shift.tally().served(&vm);
    if short_lived {
        return lives_out(shift, vm, then).await;
    }
    if let Err((what, mishap)) = use_it(shift, &vm, rng).await {
        let injected = shift.struck(&vm, then);
        shift.failed(injected, what, &mishap.to_string());
        shift.tally().ended("lost");
        return end(shift, vm, false).await;
    }
    if shift.faults && rng.u8(..100) < 8 {
        return killed_while_busy(shift, vm, then).await;
    }
    end(shift, vm, rng.bool()).await;
}

/// Runs the tasks of a VM; returns a failure with the name of its task.
async fn use_it(shift: &Shift, vm: &VmHandle, rng: &mut Rng) -> Result<(), (&'static str, Mishap)> {
    in_time(guest::first_use(vm))
        .await
        .map_err(|mishap| ("first use", mishap))?;
    for _ in 0..rng.usize(..=MAX_DEEDS) {
        let deed = Deed::any(rng);
        shift.tally().commands += 1;
        in_time(deed.perform(vm, shift.dialect, rng))
            .await
            .map_err(|mishap| (deed.name(), mishap))?;
    }
    Ok(())
}

async fn in_time(deed: impl Future<Output = Result<(), Mishap>>) -> Result<(), Mishap> {
    timeout(TIMEOUT, deed)
        .await
        .unwrap_or_else(|_| Err(Mishap::Wrong(format!("no answer within {TIMEOUT:?}"))))
}

/// Checks that a command which would run for ever ends with its VM, whose lifetime is limited.
async fn lives_out(shift: &Shift, vm: VmHandle, then: Instant) {
    let ended = timeout(TIMEOUT, vm.exec(shift.dialect.sleep())).await;
    match ended {
        Ok(Err(error)) if error.to_string().contains("time limit") => {
            shift.tally().ended("reached its time limit");
        }
        Ok(Err(error)) => {
            let injected = shift.struck(&vm, then);
            shift.failed(injected, "lifetime", &causes(&error));
        }
        Ok(Ok(_)) => shift.failed(false, "lifetime", "an endless command ended"),
        Err(_) => shift.failed(false, "lifetime", "the VM outlives its time limit"),
    }
}

async fn killed_while_busy(shift: &Shift, vm: VmHandle, then: Instant) {
    let running = match vm.start(shift.dialect.sleep()).await {
        Ok(running) => running,
        Err(error) => {
            let injected = shift.struck(&vm, then);
            return shift.failed(injected, "start of a command", &causes(&error));
        }
    };
    if shift.strikes.kill(vm.pid()) {
        shift.tally().fault("VMM killed in mid-command");
    }
    let seen = async {
        let told = running.output().await.is_err();
        vm.exited().await;
        told
    };
    match timeout(TIMEOUT, seen).await {
        Ok(true) => shift.tally().ended("killed"),
        Ok(false) => shift.failed(false, "kill", "a command succeeded in a VM that was killed"),
        Err(_) => shift.failed(false, "kill", "the end of a VM that was killed is not seen"),
    }
}

async fn end(shift: &Shift, vm: VmHandle, by_drop: bool) {
    if by_drop {
        drop(vm);
        return shift.tally().ended("dropped");
    }
    match vm.destroy().await {
        Ok(()) => shift.tally().ended("destroyed"),
        // It was killed, whatever else happened to it.
        Err(error) => shift.failed(false, "destroy", &causes(&error)),
    }
}
