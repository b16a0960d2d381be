//! Waits for the replacement of a warm clone.

use ironclaw_orchestrator::vm::Pool;

use crate::within::within;

/// Returns the process of the warm clone of `pool` that replaces `victim`. Uses no spawn, which
/// would get the dead one.
///
/// # Panics
/// If there is none in time.
pub(crate) async fn warm_successor(pool: &Pool, victim: &[u32]) -> Vec<u32> {
    let replaced = async {
        loop {
            pool.warmup().await.unwrap();
            let warm = pool.warm_pids();
            if !warm.is_empty() && warm != victim {
                return warm;
            }
            tokio::task::yield_now().await;
        }
    };
    within("another warm clone", replaced).await
}
