//! Reads bodies as a whole, in bounded time: a client that sends byte by byte is given up.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use thiserror::Error;
use tokio::time::timeout;

/// Time that a body may take which is read as a whole: a few MiB at most.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The reason why there is no body.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not come within {BODY_TIMEOUT:?}")]
    Slow,
    #[error("the body can't be read: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Reads a body of `most` bytes at most.
pub(crate) async fn read(body: Body, most: usize) -> Result<Bytes, BodyError> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, most).collect());
    match whole.await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge(most)),
        Ok(Err(error)) => Err(BodyError::Broken(error)),
        Err(_) => Err(BodyError::Slow),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_and_one_that_is_too_large_are_given_up() {
        let byte = || Ok::<_, Infallible>(Bytes::from_static(b"x"));
        let endless = stream::once(async move { byte() }).chain(stream::pending());
        let slow = read(Body::from_stream(endless), 100).await;
        assert!(matches!(slow, Err(BodyError::Slow)), "{slow:?}");
        let large = read(Body::from_stream(stream::repeat_with(byte)), 100).await;
        assert!(matches!(large, Err(BodyError::TooLarge(100))), "{large:?}");
        assert_eq!(read(Body::from("x"), 1).await.unwrap(), "x");
    }
}
