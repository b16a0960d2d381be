//! A client of Firecracker's API: one type for each request, under Firecracker's own names (its
//! `src/firecracker/swagger/firecracker.yaml`, 1.16 to 1.17).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ironclaw_orchestrator::vm::firecracker::api::{Client, GetVersion};
//!
//! let mut client = Client::connect("/run/firecracker.socket").await?;
//! println!("{}", client.call(&GetVersion).await?.firecracker_version);
//! # Ok(())
//! # }
//! ```

mod call;
mod calls;
mod error;
mod transport;

use std::path::Path;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::untrusted;

pub use call::{Call, Method};
pub use calls::*;
pub use error::ApiError;
use transport::Transport;

/// A connection to the API of one Firecracker process, for one request at a time.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// Connects to the API socket at `path`.
    ///
    /// # Errors
    /// [`ApiError::Closed`] if nobody listens there.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ApiError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| ApiError::Closed(error.to_string()))?;
        Ok(Self::from_stream(stream))
    }

    /// Wraps a connection that exists already.
    #[must_use]
    pub fn from_stream(stream: UnixStream) -> Self {
        Self {
            transport: Transport::new(stream),
        }
    }

    /// Makes a request and waits for its answer, for at most [`Call::TIMEOUT`].
    ///
    /// # Errors
    /// [`ApiError`]; after anything but [`ApiError::Refused`] the connection is unusable.
    pub async fn call<C: Call>(&mut self, call: &C) -> Result<C::Answer, ApiError> {
        let path = call.path();
        let body = match C::METHOD {
            Method::Get => Vec::new(),
            _ => serde_json::to_vec(call).map_err(|error| ApiError::Malformed {
                request: path.clone(),
                detail: error.to_string(),
            })?,
        };
        let answer = timeout(C::TIMEOUT, self.transport.exchange(C::METHOD, &path, &body))
            .await
            .map_err(|_| ApiError::TimedOut {
                request: format!("{} {path}", C::METHOD),
                after: C::TIMEOUT,
            })??;
        // A success without content has no body.
        let json: &[u8] = if answer.is_empty() { b"null" } else { &answer };
        serde_json::from_slice(json).map_err(|error| ApiError::Malformed {
            request: format!("{} {path}", C::METHOD),
            // The parser's message may quote the answer.
            detail: untrusted::message(&error.to_string()),
        })
    }
}
