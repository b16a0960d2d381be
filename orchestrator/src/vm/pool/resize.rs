//! Changes how many warm clones a pool keeps, while it is open.

use std::ops::RangeInclusive;

use super::Pool;
use super::error::PoolError;
use super::open::tell_of_few_files;
use super::state::PoolState;

impl Pool {
    /// Keeps another number of warm clones from now on, and begins to fill the pool; see
    /// [`PoolOptions::min_warm`](super::PoolOptions::min_warm) and
    /// [`max_warm`](super::PoolOptions::max_warm). [`warmup`](Self::warmup) waits for them.
    ///
    /// # Errors
    /// [`PoolError::WarmRange`]; [`PoolError::TooManyWarm`] if the budget has never room for so many.
    /// Nothing is changed then.
    pub fn set_warm(&self, warm: RangeInclusive<usize>) -> Result<(), PoolError> {
        let (min_warm, max_warm) = warm.into_inner();
        if min_warm > max_warm {
            return Err(PoolError::WarmRange { min_warm, max_warm });
        }
        let holds = self
            .core
            .bounds
            .budget
            .holds(self.launcher().machine().memory_mib);
        if max_warm > holds {
            return Err(PoolError::TooManyWarm { max_warm, holds });
        }
        tell_of_few_files(max_warm);
        self.core.apply(|state, _| {
            state.set_warm(min_warm, max_warm);
            state.activate();
        });
        Ok(())
    }

    /// Returns the minimum and the maximum of warm clones.
    #[must_use]
    pub fn warm_range(&self) -> RangeInclusive<usize> {
        self.core.read(PoolState::warm_range)
    }

    /// Returns how many warm clones the pool keeps at this moment, as far as there is room: none, while
    /// the warm tier is off.
    #[must_use]
    pub fn wanted_warm(&self) -> usize {
        let now = self.core.clock.now();
        self.core.read(|state| state.wanted_warm(now))
    }
}
