//! Requests for a repository: scheme, authorization, retries.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ironclaw_host::untrusted;
use ureq::Body;
use ureq::http::header::RETRY_AFTER;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};

use super::super::access::RegistryAccess;
use super::super::reference::ImageReference;
use super::super::registry_error::RegistryError;
use super::auth_file;
use super::backoff::Backoff;
use super::credentials::Credential;
use super::endpoint;
use super::failure::Failure;
use super::token::{self, Challenge};
use super::transport::{Request, Transport};

/// What a document of an image may be.
const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, \
                         application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json, */*";

/// A repository of a registry.
#[derive(Debug)]
pub(super) struct Session {
    transport: Transport,
    access: RegistryAccess,
    image: ImageReference,
    /// The registry's host, with its port.
    host: String,
    scheme: &'static str,
    /// Whether it has answered: it is there, and refuses connections for a while if it does.
    has_answered: AtomicBool,
    authorization: Mutex<Authorization>,
}

/// Who asks.
#[derive(Default)]
struct Authorization {
    /// The header that shows it, once the registry wants to see it.
    header: Option<String>,
    /// The user and the file that has him, once they are looked for.
    found: Option<Option<(Credential, PathBuf)>>,
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization")
    }
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
            transport: Transport::new(image.registry(), host, access)?,
            access: access.clone(),
            image: image.clone(),
            host: host.to_owned(),
            scheme: if is_plain { "http" } else { "https" },
            has_answered: AtomicBool::new(false),
            authorization: Mutex::default(),
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
        let url = self.url(&format!("{}/{part}", self.image.repository()))?;
        let mut is_authorized = false;
        loop {
            let authorization = self.header();
            let asked = self.transport.get(&Request {
                url: url.clone(),
                accept: DOCUMENTS,
                authorization: authorization.as_deref(),
                from,
            });
            if asked.is_ok() {
                self.has_answered.store(true, Ordering::Relaxed);
            }
            let (failure, asked_pause) = match asked {
                Ok(response) if is_content(response.status()) => return Ok(response),
                // Also a token that was good a minute ago ends.
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !is_authorized => {
                    match self.authorize(&url, response.headers()) {
                        Ok(true) => {
                            is_authorized = true;
                            continue;
                        }
                        Ok(false) => (self.refused(part, response)?, None),
                        Err(failure) => (failure, None),
                    }
                }
                Ok(response) => {
                    let pause = pause(&response);
                    (self.refused(part, response)?, pause)
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

    fn header(&self) -> Option<String> {
        let authorization = self.authorization.lock();
        let authorization = authorization.unwrap_or_else(PoisonError::into_inner);
        authorization.header.clone()
    }

    /// Gets what the registry wants to see; whether there is something that it has not seen.
    fn authorize(&self, url: &Uri, headers: &HeaderMap) -> Result<bool, Failure> {
        let user = self.user().map_err(Failure::lasting)?;
        let credential = user.as_ref().map(|(credential, _)| credential);
        let header = match (Challenge::of(headers), credential) {
            (_, Some(token @ Credential::RegistryToken(_))) => token.header(),
            (Some(Challenge::Basic), credential) => credential.and_then(Credential::header),
            (Some(Challenge::Bearer { realm, service }), credential) => {
                let repository = (url, self.image.repository());
                let server = (&*realm, service.as_deref());
                let token = token::fetch(&self.transport, repository, server, credential);
                let token = token.map_err(|failure| self.denied_by(failure))?;
                Some(format!("Bearer {token}"))
            }
            (None, _) => None,
        };
        let authorization = self.authorization.lock();
        let mut authorization = authorization.unwrap_or_else(PoisonError::into_inner);
        let is_new = header.is_some() && header != authorization.header;
        authorization.header = header;
        Ok(is_new)
    }

    /// Returns the user for the image, and the file that has him.
    fn user(&self) -> Result<Option<(Credential, PathBuf)>, RegistryError> {
        let authorization = self.authorization.lock();
        let mut authorization = authorization.unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &authorization.found {
            return Ok(found.clone());
        }
        let found = auth_file::find(&self.image, &self.access)?;
        authorization.found = Some(found.clone());
        Ok(found)
    }

    /// Returns the failure of an answer; an error if that can't be said.
    fn refused(&self, part: &str, mut response: Response<Body>) -> Result<Failure, RegistryError> {
        let what = format!("{} in {}", untrusted::line(part), self.image.repository());
        let answer = (response.status(), response.body_mut());
        let failure = Failure::of_status(self.host.clone(), answer, &what);
        let user = self.user()?;
        Ok(failure.with_advice(self.image.repository(), &self.advice(user.as_ref())))
    }

    /// What who gives tokens says about the user.
    fn denied_by(&self, failure: Failure) -> Failure {
        match self.user() {
            Ok(user) => failure.with_advice(self.image.repository(), &self.advice(user.as_ref())),
            Err(error) => Failure::lasting(error),
        }
    }

    fn advice(&self, user: Option<&(Credential, PathBuf)>) -> String {
        let registry = self.image.registry();
        let log_in = format!("`docker login {registry}` or `podman login {registry}`");
        if let Some((_, path)) = user {
            let path = path.display();
            return format!("log in again by {log_in}, since the user in {path} may not do it");
        }
        let files = self.access.auth_files.iter();
        let files: Vec<_> = files.map(|path| path.display().to_string()).collect();
        let files = if files.is_empty() {
            "no file of users is looked at".to_owned()
        } else {
            format!("none of {} has a user for it", files.join(", "))
        };
        format!("log in by {log_in}, since {files}")
    }
}

fn is_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
}

/// How long the registry wants to be left alone.
fn pause(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}
