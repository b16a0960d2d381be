//! One exchange with a server, its limits, and where it may lead.

use std::time::Duration;

use ureq::http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Proxy};

use super::super::access::RegistryAccess;
use super::super::registry_error::RegistryError;
use super::failure::Failure;
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

/// Asks servers.
#[derive(Debug)]
pub(super) struct Transport {
    agent: Agent,
    access: RegistryAccess,
}

/// What is asked for.
#[derive(Clone)]
pub(super) struct Request<'r> {
    pub(super) url: Uri,
    pub(super) accept: &'r str,
    pub(super) authorization: Option<&'r str>,
    /// The first byte of it.
    pub(super) from: u64,
}

impl Transport {
    /// Creates that of a registry, by the name that people give it, and its host.
    pub(super) fn new(
        registry: &str,
        host: &str,
        access: &RegistryAccess,
    ) -> Result<Self, RegistryError> {
        let name = host.parse::<Uri>().ok();
        let is_here = name.is_some_and(|it| it.host().is_some_and(endpoint::is_loopback));
        let config = Agent::config_builder()
            .tls_config(tls::config(registry, access)?)
            // A proxy's own machine is another one.
            .proxy(if is_here { None } else { Proxy::try_from_env() })
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(MAX_HEAD)
            .user_agent(concat!("ironclaw/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_request(Some(ANSWER_TIMEOUT))
            .timeout_send_body(Some(ANSWER_TIMEOUT))
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
            url = self.allowed(&url, location)?;
        }
        let reason = "it is one redirection after the other";
        Err(Failure::of_redirect(&request.url, &url.to_string(), reason))
    }

    /// Sends a form, and follows nothing.
    pub(super) fn post(&self, url: &Uri, form: &str) -> Result<Response<Body>, Failure> {
        let kind = "application/x-www-form-urlencoded";
        let asked = self.agent.post(url).header(CONTENT_TYPE, kind);
        let asked = asked.header(ACCEPT, "application/json").send(form);
        asked.map_err(|error| Failure::of_exchange(url, &error))
    }

    /// Returns the URL that a server at `from` leads to, if it may be followed.
    pub(super) fn allowed(&self, from: &Uri, location: &str) -> Result<Uri, Failure> {
        let refused = |reason| Failure::of_redirect(from, location, reason);
        let target = endpoint::target(from, location).ok_or_else(|| refused("it is no URL"))?;
        match endpoint::redirect_refusal(from, &target, &self.access) {
            Some(reason) => Err(refused(reason)),
            None => Ok(target),
        }
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
        asked
            .call()
            .map_err(|error| Failure::of_exchange(url, &error))
    }
}
