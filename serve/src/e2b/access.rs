//! Who may ask for what: the holder of a key for everything, and the holder of a sandbox's token for
//! what is in it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::api::{Api, MAX_BODY, sandbox_id};
use super::failure::{Code, Failure, RpcFailure};
use crate::caller::{Caller, Stranger};
use crate::sandbox::{Live, Sandbox, SandboxError, State as SandboxState};
use crate::sandbox_id::SandboxId;
use crate::templates::{USER, account};
use crate::whole_body;

/// The port of E2B's own agent, under which a sandbox's calls are known.
const AGENT_PORT: u16 = 49983;

/// The header with a sandbox's token.
const TOKEN: &str = "x-access-token";

/// The headers that name a sandbox and a port where the host name does not.
pub(super) const SANDBOX: &str = "e2b-sandbox-id";
pub(super) const PORT: &str = "e2b-sandbox-port";

/// Lets in who has a key, or comes over the Unix socket.
pub(super) async fn by_key(State(api): State<Api>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get().copied();
    match Caller::of(&api.0.keys, peer, request.headers()) {
        Ok(caller) => {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(caller.clone());
            let body = match whole_body::read(body, MAX_BODY).await {
                Ok(body) => body,
                Err(error) => return Failure::from(error).into_response(),
            };
            let request = Request::from_parts(parts, body.into());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(caller);
            response
        }
        Err(stranger) => Failure::from(stranger).into_response(),
    }
}

impl From<Stranger> for Failure {
    fn from(stranger: Stranger) -> Self {
        match stranger {
            Stranger::Unknown(error) => Self::internal(&error, "keys can't be looked up now"),
            known => Self::unauthorized(known.to_string()),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Which sandbox and port a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) id: SandboxId,
    pub(super) port: u16,
}

impl Target {
    /// Reads it from the host name, `PORT-ID.DOMAIN`, or from headers.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let by_host = || {
            let label = text(headers, header::HOST.as_str())?.split('.').next()?;
            let (port, id) = label.split_once('-')?;
            Some(Self {
                id: sandbox_id(id).ok()?,
                port: port.parse().ok()?,
            })
        };
        let by_headers = || {
            Some(Self {
                id: sandbox_id(text(headers, SANDBOX)?).ok()?,
                port: match text(headers, PORT) {
                    Some(port) => port.parse().ok()?,
                    None => AGENT_PORT,
                },
            })
        };
        by_host().or_else(by_headers)
    }

    /// Returns whether it is for the calls that E2B's own agent has, and not for a program.
    pub(super) fn is_agent(&self) -> bool {
        self.port == AGENT_PORT
    }
}

/// A refusal of a request to a sandbox.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is not there, or can't be reached.
    Unreachable {
        id: String,
        reason: &'static str,
    },
    Failed(RpcFailure),
}

impl Refused {
    pub(super) fn gone(id: impl Into<String>) -> Self {
        Self::Unreachable {
            id: id.into(),
            // The SDKs know a sandbox that is gone by these words.
            reason: "The sandbox was not found",
        }
    }

    pub(super) fn of(error: &SandboxError, id: &SandboxId) -> Self {
        match error {
            SandboxError::Gone | SandboxError::Paused => Self::gone(id.as_str()),
            other => {
                let failure = Failure::of(other, Some(id));
                Self::Failed(RpcFailure::new(Code::Unavailable, failure.message))
            }
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unreachable { id, reason } => {
                let status = StatusCode::BAD_GATEWAY;
                let body = json!({ "sandboxId": id, "message": reason, "code": status.as_u16() });
                (status, Json(body)).into_response()
            }
            Self::Failed(failure) => failure.into_response(),
        }
    }
}

impl From<RpcFailure> for Refused {
    fn from(failure: RpcFailure) -> Self {
        Self::Failed(failure)
    }
}

/// A sandbox that a request has access to.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) live: Live,
    /// The user that it names, if it does.
    pub(super) user: Option<String>,
}

impl Entered {
    /// Returns the user that the request acts as.
    pub(super) async fn user(&self) -> Result<String, RpcFailure> {
        let vm = &self.live.vm;
        match &self.user {
            // SDKs before 2 name this one where their callers name none, whatever the template is.
            Some(user) if user == USER && !self.has_user().await? => {}
            Some(user) => return Ok(user.clone()),
            None => {}
        }
        Ok(self.sandbox.user(vm).await?)
    }

    async fn has_user(&self) -> Result<bool, RpcFailure> {
        let vm = &self.live.vm;
        let of_template = self.sandbox.template.user(vm).await?;
        Ok(of_template == Some(USER) || account(vm, USER).await?.is_some())
    }
}

/// Finds the sandbox that a request is for.
pub(super) fn find(api: &Api, headers: &HeaderMap) -> Result<Arc<Sandbox>, Refused> {
    let Some(target) = Target::of(headers) else {
        return Err(RpcFailure::invalid(
            "no sandbox is named, by the host name PORT-ID.DOMAIN or the header E2b-Sandbox-Id",
        )
        .into());
    };
    let id = target.id.as_str();
    let found = api.0.sandboxes.get(&target.id);
    found.map_err(|_| Refused::gone(id))
}

/// Lets a request into a sandbox whose token it has. The token alone names one, too: SDKs before 2.11
/// send nothing else to a sandbox that they have connected to.
pub(super) async fn enter(api: &Api, headers: &HeaderMap) -> Result<Entered, Refused> {
    let presented = text(headers, TOKEN).unwrap_or_default();
    let has_it = |sandbox: &Sandbox| sandbox.record.token.is(presented);
    let by_token = match Target::of(headers) {
        Some(_) => None,
        None => api.0.sandboxes.find(has_it),
    };
    let sandbox = match by_token {
        Some(sandbox) => sandbox,
        None => find(api, headers)?,
    };
    if !has_it(&sandbox) {
        let failure = RpcFailure::new(
            Code::Unauthenticated,
            "the header X-Access-Token has not this sandbox's token",
        );
        return Err(failure.into());
    }
    let_in(api, sandbox, user(headers)?).await
}

/// Lets a request into a sandbox that it has proved its right to.
pub(super) async fn let_in(
    api: &Api,
    sandbox: Arc<Sandbox>,
    user: Option<String>,
) -> Result<Entered, Refused> {
    let live = api.0.sandboxes.live(&sandbox).await;
    let live = live.map_err(|error| Refused::of(&error, &sandbox.id))?;
    Ok(Entered {
        sandbox,
        live,
        user,
    })
}

/// Reads the user out of `Authorization: Basic base64("USER:")`.
pub(super) fn user(headers: &HeaderMap) -> Result<Option<String>, RpcFailure> {
    let Some(value) = text(headers, header::AUTHORIZATION.as_str()) else {
        return Ok(None);
    };
    let Some(encoded) = value.strip_prefix("Basic ") else {
        return Ok(None);
    };
    let bad = || RpcFailure::invalid("the header Authorization is not one of a user");
    let decoded = STANDARD.decode(encoded).map_err(|_| bad())?;
    let decoded = String::from_utf8(decoded).map_err(|_| bad())?;
    let user = decoded.split(':').next().unwrap_or_default();
    Ok(Some(user.to_owned()).filter(|user| !user.is_empty()))
}

/// Answers whether a sandbox runs; without one, that the daemon does.
pub(super) async fn health(State(api): State<Api>, headers: HeaderMap) -> Response {
    if Target::of(&headers).is_none() {
        return StatusCode::NO_CONTENT.into_response();
    }
    match find(&api, &headers) {
        Ok(sandbox) if sandbox.status().state == SandboxState::Running => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(sandbox) => Refused::gone(sandbox.id.as_str()).into_response(),
        Err(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "iabcdefghij2345678901";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_sandbox_is_named_by_the_host_or_by_headers() {
        let host = format!("8080-{ID}.example.com:3000");
        let target = Target::of(&headers(&[("host", &host)])).unwrap();
        assert_eq!((target.id.as_str(), target.port), (ID, 8080));
        let of_old = format!("49983-{ID}-ironclaw.example.com");
        let target = Target::of(&headers(&[("host", &of_old)])).unwrap();
        assert_eq!((target.id.as_str(), target.port), (ID, AGENT_PORT));
        assert_eq!(Target::of(&headers(&[(SANDBOX, &format!("{ID}-x"))])), None);
        let by_headers = [("host", "127.0.0.1:3000"), (SANDBOX, ID), (PORT, "49983")];
        let target = Target::of(&headers(&by_headers)).unwrap();
        assert_eq!((target.id.as_str(), target.port), (ID, AGENT_PORT));
        assert_eq!(Target::of(&headers(&[("host", "localhost:3000")])), None);
        assert_eq!(Target::of(&headers(&[(SANDBOX, "../x")])), None);
        assert_eq!(
            Target::of(&headers(&[(SANDBOX, ID), (PORT, "99999")])),
            None
        );
    }

    #[test]
    fn a_user_is_read_from_basic_authorization() {
        let of = |value: &str| user(&headers(&[("authorization", value)]));
        // base64 of `root:`.
        assert_eq!(of("Basic cm9vdDo=").unwrap().as_deref(), Some("root"));
        assert_eq!(of("Bearer x").unwrap(), None);
        assert!(of("Basic !").is_err());
        assert_eq!(user(&HeaderMap::new()).unwrap(), None);
    }
}
