//! The frequency of the host's time-stamp counter.
//!
//! A QEMU guest without KVM reads the host's own counter, and a kernel that has to calibrate it
//! against an emulated timer sometimes hangs in that. So it is told the frequency
//! (`tsc_early_khz`), and a snapshot is restored only where the counter runs as fast as before.
//! The MHz of /proc/cpuinfo are no source: on many machines they follow the load.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys::time_stamp_counter;

/// Long enough that reading both clocks, well below a microsecond, is lost in it.
const WINDOW: Duration = Duration::from_millis(10);
/// Readings of which the best counts; a few microseconds in all.
const TRIES: u32 = 32;

/// Frequency in kHz, measured against the monotonic clock on first use: takes 10 ms then, and
/// nothing afterwards. `None` if it is no frequency that a processor of today has.
pub fn khz() -> Option<u32> {
    static KHZ: OnceLock<Option<u32>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> Option<u32> {
    let (start, first) = reading();
    std::thread::sleep(WINDOW);
    let (end, last) = reading();
    let elapsed = end.duration_since(start);
    let ticks = u128::from(last.checked_sub(first)?);
    let khz = (ticks * 1_000_000).checked_div(elapsed.as_nanos())?;
    u32::try_from(khz)
        .ok()
        .filter(|khz| (100_000..=20_000_000).contains(khz))
}

/// Both clocks at one moment. A thread that is interrupted between them is microseconds off, and the
/// first reading of a process is, by the page faults that it takes: of several the closest counts.
fn reading() -> (Instant, u64) {
    let try_it = |_| {
        let before = time_stamp_counter();
        let now = Instant::now();
        // It goes back for a thread that is moved to a processor whose counter is behind: the
        // worst of readings then.
        let apart = time_stamp_counter().checked_sub(before).unwrap_or(u64::MAX);
        (apart, now, before.saturating_add(apart / 2))
    };
    let tries = (1..TRIES).map(try_it);
    let (_, now, counter) = tries.fold(
        try_it(0),
        |best, next| if next.0 < best.0 { next } else { best },
    );
    (now, counter)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn measurements_agree_within_the_tolerance_of_the_compatibility_check_on_a_busy_host_too() {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let processors = std::thread::available_parallelism().unwrap().get();
            for _ in 0..4 * processors {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let mut all: Vec<_> = (0..20).map(|_| measure().unwrap()).collect();
            over.store(true, Ordering::Relaxed);
            all.sort_unstable();
            // Save one at either end: a host may take its processors from a whole reading.
            let (least, most) = (all[1], all[18]);
            assert!(most - least < least / 2000, "{all:?} kHz");
        });
    }
}
