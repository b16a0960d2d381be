//! Summaries of measurements.

use std::time::Duration;

use serde::Serialize;

use crate::output::milliseconds;

/// Least, middle and greatest of some measurements, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) samples: usize,
    pub(crate) min_ms: f64,
    pub(crate) median_ms: f64,
    pub(crate) max_ms: f64,
}

impl Spread {
    /// Of `samples` in any order; `None` if there are none.
    pub(crate) fn of(samples: &[Duration]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort();
        let (min, max) = (sorted.first()?, sorted.last()?);
        let upper = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[upper]
        } else {
            (sorted[upper - 1] + sorted[upper]) / 2
        };
        Some(Self {
            samples: sorted.len(),
            min_ms: milliseconds(*min),
            median_ms: milliseconds(median),
            max_ms: milliseconds(*max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: &[u64]) -> Option<Spread> {
        Spread::of(
            &millis
                .iter()
                .copied()
                .map(Duration::from_millis)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middle_ones() {
        assert_eq!(of(&[]), None);
        let odd = Spread {
            samples: 3,
            min_ms: 1.0,
            median_ms: 2.0,
            max_ms: 9.0,
        };
        assert_eq!(of(&[9, 1, 2]), Some(odd));
        let even = Spread {
            samples: 4,
            min_ms: 1.0,
            median_ms: 3.0,
            max_ms: 9.0,
        };
        assert_eq!(of(&[9, 1, 2, 4]), Some(even));
    }
}
