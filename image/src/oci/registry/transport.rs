//! One exchange with a server, its limits, and where it may lead.

use std::io;
use std::time::Duration;

use ironclaw_host::untrusted;
use ureq::http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE};
use ureq::http::uri::Scheme;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Error, Proxy};

use super::super::access::RegistryAccess;
use super::super::registry_error::RegistryError;
use super::{endpoint, tls};

/// Timeout of a look-up of a name, and of a connection with its TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of the next bytes of an answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit of the head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Limit of redirections that follow each other.
const MAX_REDIRECTS: usize = 5;
/// Longest `Location` that an error shows.
const MAX_SHOWN: usize = 200;

/// Asks servers.
#[derive(Debug)]
pub(super) struct Transport {
    agent: Agent,
    access: RegistryAccess,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Request<'r> {
    pub(super) url: Uri,
    pub(super) accept: &'r str,
    pub(super) authorization: Option<&'r str>,
    /// The first byte of it.
    pub(super) from: u64,
}

/// An exchange that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RegistryError,
    /// Whether it may work the next time.
    pub(super) is_transient: bool,
}

impl Transport {
    pub(super) fn new(host: &str, access: &RegistryAccess) -> Result<Self, RegistryError> {
        let name = host.parse::<Uri>().ok();
        let is_here = name.is_some_and(|it| it.host().is_some_and(endpoint::is_loopback));
        let config = Agent::config_builder()
            .tls_config(tls::config(access)?)
            // A proxy's own machine is another one.
            .proxy(if is_here { None } else { Proxy::try_from_env() })
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(MAX_HEAD)
            .user_agent(concat!("ironclaw/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_request(Some(ANSWER_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .timeout_per_write(Some(SILENCE_TIMEOUT));
        Ok(Self {
            agent: Agent::new_with_config(config.build()),
            access: access.clone(),
        })
    }

    /// Asks, and follows where the answer leads. Who authorized the request is told to its own server alone.
    pub(super) fn get(&self, request: &Request<'_>) -> Result<Response<Body>, Failure> {
        let mut url = request.url.clone();
        if let Some(reason) = endpoint::refusal(&url, &self.access) {
            return Err(Failure::of_redirect(&request.url, &url.to_string(), reason));
        }
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&url, request)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|it| it.to_str().ok()).unwrap_or_default();
            let refused = |reason| Failure::of_redirect(&url, location, reason);
            let target = endpoint::target(&url, location).ok_or_else(|| refused("it is no URL"))?;
            if let Some(reason) = endpoint::redirect_refusal(&url, &target, &self.access) {
                return Err(refused(reason));
            }
            url = target;
        }
        let reason = "it is one redirection after the other";
        Err(Failure::of_redirect(&request.url, &url.to_string(), reason))
    }

    fn ask(&self, url: &Uri, request: &Request<'_>) -> Result<Response<Body>, Failure> {
        let mut asked = self.agent.get(url).header(ACCEPT, request.accept);
        // Digests are of what is stored.
        asked = asked.header(ACCEPT_ENCODING, "identity");
        if request.from > 0 {
            asked = asked.header(RANGE, format!("bytes={}-", request.from));
        }
        if let Some(authorization) = request.authorization
            && endpoint::is_same_origin(url, &request.url)
        {
            asked = asked.header(AUTHORIZATION, authorization);
        }
        asked.call().map_err(|error| failure(url, &error))
    }
}

/// Returns the host of a URL, with its port.
pub(super) fn host(url: &Uri) -> String {
    url.authority()
        .map_or_else(String::new, ToString::to_string)
}

impl Failure {
    fn of_redirect(from: &Uri, target: &str, reason: &'static str) -> Self {
        let target = untrusted::line(target).chars().take(MAX_SHOWN).collect();
        Self {
            error: RegistryError::Redirect {
                host: host(from),
                target,
                reason,
            },
            is_transient: false,
        }
    }
}

fn failure(url: &Uri, error: &Error) -> Failure {
    let host = host(url);
    let reason = untrusted::message(&match error {
        Error::Io(error) => error.to_string(),
        other => other.to_string(),
    });
    let by_tls = url.scheme() == Some(&Scheme::HTTPS);
    let (error, is_transient) = match rustls_error(error) {
        // What is no record of TLS: an answer in plain HTTP.
        Some(rustls::Error::InvalidMessage(_)) if by_tls => {
            (RegistryError::NoTls { host, reason }, false)
        }
        Some(_) => (RegistryError::Untrusted { host, reason }, false),
        None => {
            let is_transient = match error {
                Error::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
                Error::Timeout(_) => true,
                _ => false,
            };
            (RegistryError::Unreachable { host, reason }, is_transient)
        }
    };
    Failure {
        error,
        is_transient,
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
