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

/// Frequency in kHz, measured against the monotonic clock on first use: takes 10 ms then, and
/// nothing afterwards. `None` if it is no frequency that a processor of today has.
pub(crate) fn khz() -> Option<u32> {
    static KHZ: OnceLock<Option<u32>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> Option<u32> {
    let (start, first) = (Instant::now(), time_stamp_counter());
    std::thread::sleep(WINDOW);
    // Both ends read the clock first and the counter second, so that the order cancels out.
    let (elapsed, last) = (start.elapsed(), time_stamp_counter());
    let ticks = u128::from(last.checked_sub(first)?);
    let khz = ticks * 1_000_000 / elapsed.as_nanos();
    u32::try_from(khz)
        .ok()
        .filter(|khz| (100_000..=20_000_000).contains(khz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_within_the_tolerance_of_the_compatibility_check() {
        let (a, b) = (measure().unwrap(), measure().unwrap());
        assert!(a.abs_diff(b) < a / 2000, "{a} and {b} kHz");
    }
}
