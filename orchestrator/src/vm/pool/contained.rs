//! Turns panics into errors.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::vm::launcher::LaunchError;

/// Returns the result of `work`, or an error if it panics: it calls back into the embedding
/// program, whose panic must not occupy a slot of the pool for ever.
pub(super) async fn contained<T>(
    work: impl Future<Output = Result<T, LaunchError>>,
) -> Result<T, LaunchError> {
    let mut work = pin!(work);
    poll_fn(|context| {
        // Everything that it changed is behind locks, or dropped with it.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| {
            let reason = words(&*panic);
            Poll::Ready(Err(LaunchError::Panicked { reason }))
        })
    })
    .await
}

/// Returns the message of a panic.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_in_its_own_words_wherever_it_comes() {
        let panics = async {
            tokio::task::yield_now().await;
            panic!("this is number {}", 1);
        };
        let error = contained::<()>(panics).await.unwrap_err();
        assert!(error.to_string().contains("this is number 1"), "{error}");
        let served = contained(async { Ok::<_, LaunchError>(7) });
        assert_eq!(served.await.unwrap(), 7);
    }
}
