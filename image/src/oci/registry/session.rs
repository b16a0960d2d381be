//! Requests for a repository: scheme, authorization, retries.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ironclaw_host::untrusted;
use serde::Deserialize;
use ureq::Body;
use ureq::http::header::RETRY_AFTER;
use ureq::http::{Response, StatusCode, Uri};

use super::super::access::RegistryAccess;
use super::super::reference::ImageReference;
use super::super::registry_error::RegistryError;
use super::backoff::Backoff;
use super::endpoint;
use super::transport::{Failure, Request, Transport};

/// What a document of an image may be.
const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, \
                         application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json, */*";
/// Limit of what is read of an error's text, in bytes.
const MAX_ERROR: u64 = 16 << 10;
/// Limit of what is shown of it, in characters.
const MAX_SHOWN: usize = 300;

/// A repository of a registry.
#[derive(Debug)]
pub(super) struct Session {
    transport: Transport,
    /// The registry's host, with its port.
    host: String,
    scheme: &'static str,
    repository: String,
    /// Whether it has answered: it is there, and refuses connections for a while if it does.
    has_answered: AtomicBool,
}

impl Session {
    /// Finds out how the registry of an image is spoken to.
    pub(super) fn connect(
        image: &ImageReference,
        access: &RegistryAccess,
    ) -> Result<Self, RegistryError> {
        let host = endpoint::host(image.registry());
        let is_plain = access.is_plain(image.registry());
        let mut session = Self {
            transport: Transport::new(host, access)?,
            host: host.to_owned(),
            scheme: if is_plain { "http" } else { "https" },
            repository: image.repository().to_owned(),
            has_answered: AtomicBool::new(false),
        };
        let url = session.url("")?;
        if !is_plain && url.host().is_some_and(endpoint::is_loopback) {
            // It may speak TLS, or not.
            let asked = session.transport.get(&Request {
                url,
                accept: "*/*",
                authorization: None,
                from: 0,
            });
            match asked {
                Err(Failure {
                    error: RegistryError::NoTls { .. },
                    ..
                }) => session.scheme = "http",
                Err(Failure { error, .. }) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(session)
    }

    /// Returns the registry's host, with its port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Asks for a part of the repository, such as `manifests/latest`, from a byte on. Tries again what may
    /// work the next time.
    pub(super) fn get(
        &self,
        part: &str,
        from: u64,
        backoff: &mut Backoff,
    ) -> Result<Response<Body>, RegistryError> {
        let url = self.url(&format!("{}/{part}", self.repository))?;
        loop {
            let asked = self.transport.get(&Request {
                url: url.clone(),
                accept: DOCUMENTS,
                authorization: None,
                from,
            });
            if asked.is_ok() {
                self.has_answered.store(true, Ordering::Relaxed);
            }
            let (failure, asked_pause) = match asked {
                Ok(response) if is_content(response.status()) => return Ok(response),
                Ok(response) => {
                    let pause = pause(&response);
                    (self.refused(part, response), pause)
                }
                Err(failure) => (failure, None),
            };
            let may_come_back = matches!(failure.error, RegistryError::Unreachable { .. })
                && self.has_answered.load(Ordering::Relaxed);
            let again = failure.is_transient || may_come_back;
            let pause = again.then(|| backoff.failed(asked_pause));
            match pause.flatten() {
                Some(pause) => {
                    tracing::debug!(error = %failure.error, ?pause, "the registry is asked again");
                    thread::sleep(pause);
                }
                None => return Err(failure.error),
            }
        }
    }

    fn url(&self, path: &str) -> Result<Uri, RegistryError> {
        let url = format!("{}://{}/v2/{path}", self.scheme, self.host);
        url.parse().map_err(|_| RegistryError::Protocol {
            host: self.host.clone(),
            reason: format!("{url:?} is no URL"),
        })
    }

    fn refused(&self, part: &str, mut response: Response<Body>) -> Failure {
        let status = response.status();
        let host = self.host.clone();
        let what = format!("{} in {}", untrusted::line(part), self.repository);
        let said = said(response.body_mut());
        let is_transient = is_transient(status);
        let error = match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, said },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
                host,
                repository: self.repository.clone(),
                said,
                advice: "it takes a user, and none is known".to_owned(),
            },
            status => RegistryError::Status {
                host,
                status: status.as_u16(),
                what,
                said,
            },
        };
        Failure {
            error,
            is_transient,
        }
    }
}

fn is_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long the registry wants to be left alone.
fn pause(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
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
