//! Numbers by which the pools of a process are told apart.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Those that are taken.
#[derive(Debug, Default, Clone)]
pub(crate) struct Numbers(Arc<Mutex<BTreeSet<u64>>>);

/// A pool's number, the least that no other has; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Number {
    number: u64,
    numbers: Numbers,
}

impl Numbers {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<u64>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn take(&self) -> Number {
        let number = self.change(|taken| {
            let number = (1..).find(|number| !taken.contains(number));
            let number = number.unwrap_or(u64::MAX);
            taken.insert(number);
            number
        });
        let numbers = self.clone();
        Number { number, numbers }
    }
}

impl Number {
    pub(super) fn get(&self) -> u64 {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.numbers.change(|taken| taken.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_least_that_no_other_pool_has() {
        let numbers = Numbers::default();
        let [one, two, three] = [(); 3].map(|()| numbers.take());
        assert_eq!([one.get(), two.get(), three.get()], [1, 2, 3]);
        drop(two);
        assert_eq!(numbers.take().get(), 2);
    }
}
