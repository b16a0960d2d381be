//! The form of a request.

use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A request of the API.
pub trait Call: Serialize + Sync {
    /// What a success answers; `()` where that is nothing.
    type Answer: DeserializeOwned;
    /// The HTTP method; a `GET` sends no body.
    const METHOD: Method;
    /// How long an answer may take.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// The resource.
    fn path(&self) -> String;
}
