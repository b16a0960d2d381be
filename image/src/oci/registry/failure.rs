//! Exchanges that failed.

use std::io::{self, Read as _};

use ironclaw_host::untrusted;
use serde::Deserialize;
use ureq::http::uri::Scheme;
use ureq::http::{StatusCode, Uri};
use ureq::{Body, Error};

use super::super::registry_error::RegistryError;

/// Limit of what is read of an error's text, in bytes.
const MAX_ERROR: u64 = 16 << 10;
/// Limit of what is shown of it, and of a URL, in characters.
const MAX_SHOWN: usize = 300;

/// An exchange that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RegistryError,
    /// Whether it may work the next time.
    pub(super) is_transient: bool,
}

/// Returns the host of a URL, with its port.
pub(super) fn host(url: &Uri) -> String {
    url.authority()
        .map_or_else(String::new, ToString::to_string)
}

impl Failure {
    /// What fails the next time, too.
    pub(super) fn lasting(error: RegistryError) -> Self {
        Self {
            error,
            is_transient: false,
        }
    }

    pub(super) fn of_redirect(from: &Uri, target: &str, reason: &'static str) -> Self {
        let target = untrusted::line(target).chars().take(MAX_SHOWN).collect();
        Self::lasting(RegistryError::Redirect {
            host: host(from),
            target,
            reason,
        })
    }

    /// That of an answer without what was asked for.
    pub(super) fn of_status(
        host: String,
        (status, body): (StatusCode, &mut Body),
        what: &str,
    ) -> Self {
        let (what, said) = (what.to_owned(), said(body));
        let error = match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, said },
            status => RegistryError::Status {
                host,
                status: status.as_u16(),
                what,
                said,
            },
        };
        Self {
            error,
            is_transient: matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504),
        }
    }

    /// Says what to do, if it is about who asks.
    pub(super) fn with_advice(self, repository: &str, advice: &str) -> Self {
        match self.error {
            RegistryError::Status {
                host,
                status: 401 | 403,
                said,
                ..
            } => Self::lasting(RegistryError::Denied {
                host,
                repository: repository.to_owned(),
                said,
                advice: advice.to_owned(),
            }),
            _ => self,
        }
    }

    /// That of an exchange without an answer.
    pub(super) fn of_exchange(url: &Uri, error: &Error) -> Self {
        let host = host(url);
        let reason = untrusted::message(&match error {
            Error::Io(error) => error.to_string(),
            other => other.to_string(),
        });
        match rustls_error(error) {
            // What is no record of TLS: an answer in plain HTTP.
            Some(rustls::Error::InvalidMessage(_)) if url.scheme() == Some(&Scheme::HTTPS) => {
                Self::lasting(RegistryError::NoTls { host, reason })
            }
            Some(_) => Self::lasting(RegistryError::Untrusted { host, reason }),
            None => Self {
                is_transient: match error {
                    Error::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
                    Error::Timeout(_) => true,
                    _ => false,
                },
                error: RegistryError::Unreachable { host, reason },
            },
        }
    }
}

/// Returns the error of TLS that is behind an error.
fn rustls_error(error: &Error) -> Option<&rustls::Error> {
    match error {
        Error::Rustls(error) => Some(error),
        Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// Returns what an answer says about the failure, as the end of a sentence.
fn said(body: &mut Body) -> String {
    let mut bytes = Vec::new();
    // What came of it is better than nothing.
    drop(body.as_reader().take(MAX_ERROR).read_to_end(&mut bytes));
    let errors = serde_json::from_slice::<Errors>(&bytes);
    let first = errors.ok().and_then(|it| it.errors.into_iter().next());
    let Some(Said { code, message }) = first else {
        return String::new();
    };
    let message = message.map_or_else(String::new, |it| format!(": {it}"));
    let text: String = format!("{code}{message}").chars().take(MAX_SHOWN).collect();
    format!(" ({})", untrusted::line(&text))
}
