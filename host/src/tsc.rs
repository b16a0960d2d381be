//! Measures the frequency of the host's time-stamp counter.
//!
//! Without KVM, a QEMU guest reads the host's own counter, and a kernel that calibrates it against
//! an emulated timer sometimes hangs. So the kernel is given the frequency (`tsc_early_khz`), and a
//! snapshot is restored only where the counter runs at the frequency that it was made with. The MHz
//! in /proc/cpuinfo don't tell: on many machines they follow the load.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys::time_stamp_counter;

/// Time between the two readings: long enough that the cost of reading both clocks, well below a
/// microsecond, does not show.
const WINDOW: Duration = Duration::from_millis(10);
/// Attempts at one reading, of which the best counts; they take a few microseconds in all.
const TRIES: u32 = 32;

/// Returns the frequency in kHz. Measures it against the monotonic clock at the first call, which
/// takes 10 ms. `None` if the result is no plausible frequency.
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

/// Reads both clocks at one moment. A thread that is interrupted in between is off by microseconds,
/// and so is a process's first reading, by its page faults: the attempt with the shortest interval
/// counts.
fn reading() -> (Instant, u64) {
    let try_it = |_| {
        let before = time_stamp_counter();
        let now = Instant::now();
        // The counter goes back if the thread moves to a processor whose counter is behind: such an
        // attempt ranks last.
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
            // Drops one outlier at either end: the host may take the processor away during a
            // measurement.
            let (least, most) = (all[1], all[18]);
            assert!(most - least < least / 2000, "{all:?} kHz");
        });
    }
}
