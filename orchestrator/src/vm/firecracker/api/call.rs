//! The interface of a request.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The HTTP method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Reads; sends no body.
    Get,
    /// Sets.
    Put,
    /// Changes.
    Patch,
}

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request of the API.
pub trait Call: Serialize + Sync {
    /// The body of a successful answer; `()` if there is none.
    type Answer: DeserializeOwned;
    /// The HTTP method; [`Method::Get`] sends no body.
    const METHOD: Method;
    /// Timeout of the answer.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Returns the resource's path.
    fn path(&self) -> String;
}
