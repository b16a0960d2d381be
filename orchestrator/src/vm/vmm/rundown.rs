//! The rundown of VMs: processes that were killed, and have not ended yet.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Exit;

/// Timeout of a process's end after SIGKILL, which takes milliseconds. A process stuck in the
/// kernel may take longer, and is reaped whenever it ends.
pub(crate) const PROCESS_END_TIMEOUT: Duration = Duration::from_secs(10);

/// The receiver of a process's end from its supervisor.
pub(crate) type Ending = watch::Receiver<Option<Exit>>;

/// The ends of processes that were killed, and that are not known to be reaped. All clones are one
/// list.
#[derive(Clone, Default)]
pub(crate) struct Rundown(Arc<Mutex<Vec<Ending>>>);

impl Rundown {
    pub(super) fn add(&self, ending: Ending) {
        let mut dying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Looks at all of them only as often as the list would grow: a thousand may be killed at
        // once.
        if dying.len() == dying.capacity() {
            dying.retain(is_pending);
        }
        dying.push(ending);
    }

    /// Resolves when every process that was added until now has ended, and its resources are gone;
    /// one that is stuck is not waited for any longer than [`PROCESS_END_TIMEOUT`].
    pub(crate) async fn ended(&self) {
        let dying = {
            let mut dying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            dying.retain(is_pending);
            dying.clone()
        };
        let all = async {
            for mut exit in dying {
                // An error means that the supervisor panicked: no report will follow.
                let _ = exit.wait_for(Option::is_some).await;
            }
        };
        if timeout(PROCESS_END_TIMEOUT, all).await.is_err() {
            tracing::warn!("a process was killed and has not ended within {PROCESS_END_TIMEOUT:?}");
        }
    }
}

/// Returns whether a process has not ended, and its supervisor lives.
fn is_pending(ending: &Ending) -> bool {
    ending.borrow().is_none() && ending.has_changed().is_ok()
}

impl fmt::Debug for Rundown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rundown").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit() -> Exit {
        Exit {
            status: "signal: 9 (SIGKILL)".to_owned(),
            log: String::new(),
            words: String::new(),
        }
    }

    #[tokio::test]
    async fn those_that_have_ended_are_forgotten_and_the_others_waited_for() {
        let rundown = Rundown::default();
        let (late, ending) = watch::channel(None);
        rundown.add(ending);
        for _ in 0..1000 {
            let (end, ending) = watch::channel(None);
            rundown.add(ending);
            end.send_replace(Some(exit()));
        }
        assert!(rundown.0.lock().unwrap().len() <= 8);
        let mut ended = std::pin::pin!(rundown.ended());
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(ended.as_mut().poll(cx)));
        assert!(now.await.is_pending());
        late.send_replace(Some(exit()));
        ended.await;
        rundown.ended().await;
        assert!(rundown.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_supervisor_that_is_gone_is_not_waited_for() {
        let rundown = Rundown::default();
        let (end, ending) = watch::channel(None);
        rundown.add(ending);
        drop(end);
        rundown.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_one_that_is_stuck_has_a_limit() {
        let rundown = Rundown::default();
        let (_end, ending) = watch::channel(None);
        rundown.add(ending);
        rundown.ended().await;
    }
}
