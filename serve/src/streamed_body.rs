//! Answers whose content comes from a reader, such as a file of a guest.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes that are sent at a time.
const CHUNK: usize = 64 * 1024;

/// Sends what a reader has.
pub(crate) fn of_reader(reader: impl AsyncRead + Unpin + Send + 'static) -> Body {
    let pieces = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let mut chunk = vec![0; CHUNK];
        match reader.read(&mut chunk).await {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(Bytes::from(chunk)), Some(reader)))
            }
            // Ends the connection, so that a part is not taken for all of it.
            Err(error) => Some((Err(error), None)),
        }
    });
    Body::from_stream(pieces)
}
