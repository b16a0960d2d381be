//! Does the same with many things, some at a time.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

/// Threads at a time, for work that waits for the kernel or a disk longer than it works.
const THREADS: usize = 16;

/// Calls `work` with each of `items`, in any order, by several threads. Goes on with the others after
/// an error, and does all by itself where no thread can be started.
///
/// # Errors
/// One of the errors of `work`.
pub(in crate::vm) fn for_each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let (next, result) = (AtomicUsize::new(0), Mutex::new(Ok(())));
    let work_on_the_rest = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            }
        }
    };
    scope(|threads| {
        for _ in 1..THREADS.min(items.len()) {
            let name = Builder::new().name("sweep".to_owned());
            if name.spawn_scoped(threads, work_on_the_rest).is_err() {
                break;
            }
        }
        work_on_the_rest();
    });
    result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn each_is_worked_on_once_and_an_error_stops_no_other() {
        let items: Vec<u32> = (0..1000).collect();
        let done = Mutex::new(HashSet::new());
        let result = for_each(&items, |item| {
            assert!(done.lock().unwrap().insert(*item));
            if item % 100 == 7 {
                return Err(io::Error::other("seven"));
            }
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "seven");
        assert_eq!(done.into_inner().unwrap().len(), items.len());
        for_each(&[(); 0], |()| Ok(())).unwrap();
    }

    #[test]
    fn what_waits_keeps_no_other_from_beginning() {
        let all_wait = Barrier::new(THREADS);
        for_each(&[(); THREADS], |()| {
            all_wait.wait();
            Ok(())
        })
        .unwrap();
    }
}
