//! Summaries of measurements.

use std::time::Duration;

use hdrhistogram::Histogram;
use ironclaw_console::output::milliseconds;
use serde::Serialize;

/// The distribution of measurements. Each percentile is one of them: the smallest that so many
/// percent do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Spread<T> {
    pub(crate) samples: usize,
    pub(crate) min: T,
    pub(crate) p50: T,
    pub(crate) p90: T,
    pub(crate) p95: T,
    pub(crate) p99: T,
    pub(crate) max: T,
}

impl<T: Ord + Copy> Spread<T> {
    /// Summarizes `samples`, in any order; `None` if there are none.
    pub(crate) fn of(samples: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut sorted: Vec<_> = samples.into_iter().collect();
        sorted.sort_unstable();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let percentile = |share: usize| sorted[(sorted.len() * share).div_ceil(100) - 1];
        Some(Self {
            samples: sorted.len(),
            min,
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max,
        })
    }
}

impl Spread<f64> {
    /// Converts a histogram of microseconds to milliseconds, with the histogram's precision.
    pub(crate) fn of_micros(times: &Histogram<u64>) -> Self {
        let milliseconds = |micros| milliseconds(Duration::from_micros(micros));
        let percentile = |share| milliseconds(times.value_at_quantile(share));
        Self {
            samples: usize::try_from(times.len()).unwrap_or(usize::MAX),
            min: milliseconds(times.min()),
            p50: percentile(0.5),
            p90: percentile(0.9),
            p95: percentile(0.95),
            p99: percentile(0.99),
            max: milliseconds(times.max()),
        }
    }

    /// Summarizes times in milliseconds.
    pub(crate) fn of_times(samples: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let times = Spread::of(samples)?;
        Some(Self {
            samples: times.samples,
            min: milliseconds(times.min),
            p50: milliseconds(times.p50),
            p90: milliseconds(times.p90),
            p95: milliseconds(times.p95),
            p99: milliseconds(times.p99),
            max: milliseconds(times.max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(Spread::<u64>::of([]), None);
    }

    #[test]
    fn percentiles_are_measurements_that_so_many_do_not_exceed() {
        let spread = Spread::of((1..=200).rev()).unwrap();
        let expected = Spread {
            samples: 200,
            min: 1,
            p50: 100,
            p90: 180,
            p95: 190,
            p99: 198,
            max: 200,
        };
        assert_eq!(spread, expected);
    }

    #[test]
    fn of_few_measurements_high_percentiles_are_the_greatest() {
        let spread = Spread::of([9, 1, 2]).unwrap();
        assert_eq!((spread.p50, spread.p90, spread.p99), (2, 9, 9));
        let one = Spread::of([7]).unwrap();
        assert_eq!((one.min, one.p50, one.p99, one.max), (7, 7, 7, 7));
    }

    #[test]
    fn times_are_told_in_milliseconds() {
        let spread = Spread::of_times([Duration::from_micros(1500)]).unwrap();
        assert!((spread.p50 - 1.5).abs() < 1e-9);
    }
}
