//! The rest of a body that is refused: a client hears why only after it was let speak to its end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Time for the rest of a body that nobody wants: a client that still sends it then does not hear why.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// A body, and whether somebody has begun to read it.
struct Sent {
    pieces: BodyDataStream,
    is_begun: bool,
}

/// Serves a request, and takes in the rest of its body if that is refused: a connection that is closed
/// before it was read is reset, and the answer lost.
pub(super) async fn take_in(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // Its client sends nothing before it is told to, which the first look at the body does.
    let waits = parts.headers.contains_key(header::EXPECT);
    let sent = Arc::new(Mutex::new(Sent {
        pieces: body.into_data_stream(),
        is_begun: false,
    }));
    let read = stream::unfold(Arc::clone(&sent), |sent| async move {
        let piece = {
            let mut sent = sent.lock().await;
            sent.is_begun = true;
            sent.pieces.next().await
        };
        Some((piece?, sent))
    });
    let request = Request::from_parts(parts, Body::from_stream(read));
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let rest = async {
            let mut sent = sent.lock().await;
            if sent.is_begun || !waits {
                while let Some(Ok(_)) = sent.pieces.next().await {}
            }
        };
        // A client that is slower is not waited for.
        let _ = timeout(REST_TIMEOUT, rest).await;
    }
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::StatusCode;
    use axum::{Router, middleware, routing::put};
    use bytes::Bytes;
    use tower_service::Service as _;

    use super::*;

    const PIECES: usize = 100;

    /// Returns how many pieces of a body are taken that is refused.
    async fn taken(head: Request<()>) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let pieces = stream::repeat(Bytes::from_static(b"x")).take(PIECES).map({
            let count = Arc::clone(&count);
            move |piece| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(piece)
            }
        });
        let mut router: Router = Router::new()
            .route("/", put(|| async { StatusCode::FORBIDDEN }))
            .layer(middleware::from_fn(take_in));
        let (parts, ()) = head.into_parts();
        let request = Request::from_parts(parts, Body::from_stream(pieces));
        let response = router.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_body_that_is_refused_is_taken_in_unless_its_client_waits() {
        let head = || Request::put("/");
        assert_eq!(taken(head().body(()).unwrap()).await, PIECES);
        let waits = head().header("expect", "100-continue").body(()).unwrap();
        assert_eq!(taken(waits).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let endless = stream::once(async { Ok::<_, Infallible>("x") }).chain(stream::pending());
        let mut router: Router = Router::new()
            .route("/", put(|| async { StatusCode::FORBIDDEN }))
            .layer(middleware::from_fn(take_in));
        let request = Request::put("/").body(Body::from_stream(endless)).unwrap();
        let response = router.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}
