//! The interface of a request.

use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A request of the API.
pub trait Call: Serialize + Sync {
    /// The body of a successful answer; `()` if there is none.
    type Answer: DeserializeOwned;
    /// The HTTP method; a `GET` sends no body.
    const METHOD: Method;
    /// Timeout of the answer.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Returns the resource's path.
    fn path(&self) -> String;
}
