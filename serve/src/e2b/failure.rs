//! Failures as E2B's clients read them: JSON with a number for calls over HTTP, and with a name for RPCs.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ironclaw_orchestrator::vm::{FailureKind, GuestError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::causes::causes;
use crate::host_fault::HostFault;
use crate::new_sandbox::InvalidSandbox;
use crate::sandbox::SandboxError;
use crate::sandbox_id::SandboxId;
use crate::templates::TemplateError;
use crate::whole_body::BodyError;

/// Seconds after which a client may ask again when there was no room.
const RETRY_AFTER: &str = "1";

/// A failed call over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that can't be served, and would change what a sandbox may do.
    pub(super) fn refused(field: &str) -> Self {
        Self::bad_request(format!(
            "the field {field:?} can't be served, and would change what the sandbox may do"
        ))
    }

    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such call")
    }

    pub(super) fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "there is no such call")
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// Logs what clients are not told, since it may have paths of the host.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static), message: &str) -> Self {
        tracing::error!(error = causes(error), "{message}");
        if let Some(fault) = HostFault::of(error) {
            let status = match fault {
                HostFault::DatabaseLocked => StatusCode::SERVICE_UNAVAILABLE,
                HostFault::DatabaseDamaged => StatusCode::INTERNAL_SERVER_ERROR,
                HostFault::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            };
            return Self::new(status, fault.text());
        }
        let message = format!("{message}; the daemon's log has the reason");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A failure of a sandbox's life, for the call about `id`.
    pub(super) fn of(error: &SandboxError, id: Option<&SandboxId>) -> Self {
        let name = id.map_or("", SandboxId::as_str);
        match error {
            SandboxError::Gone => Self::new(
                StatusCode::NOT_FOUND,
                format!("sandbox {name:?} was not found"),
            ),
            SandboxError::Paused => {
                Self::new(StatusCode::CONFLICT, format!("sandbox {name:?} is paused"))
            }
            SandboxError::Template(error) if matches!(**error, TemplateError::Unknown(_)) => {
                Self::new(StatusCode::NOT_FOUND, error.to_string())
            }
            SandboxError::Invalid(error) => error.clone().into(),
            SandboxError::KeyReused(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            SandboxError::TooMany(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
            busy if busy.is_busy() => {
                tracing::warn!(error = causes(busy), "a sandbox is refused");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "there is no room for this sandbox now",
                )
            }
            other => Self::internal(other, "the sandbox can't be had"),
        }
    }
}

impl Failure {
    /// Returns it as clients read it.
    pub(super) fn body(&self) -> Value {
        json!({ "code": self.status.as_u16(), "message": self.message })
    }
}

impl From<InvalidSandbox> for Failure {
    fn from(error: InvalidSandbox) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, body) = (self.status, Json(self.body()));
        let mut response = (status, body).into_response();
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            let value = HeaderValue::from_static(RETRY_AFTER);
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

/// The codes of the Connect protocol that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
}

/// A failed RPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RpcFailure {
    pub(super) code: Code,
    pub(super) message: String,
}

impl RpcFailure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }
}

/// <https://connectrpc.com/docs/protocol#error-codes>
fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for RpcFailure {
    fn into_response(self) -> Response {
        (status(self.code), Json(self)).into_response()
    }
}

impl From<GuestError> for RpcFailure {
    fn from(error: GuestError) -> Self {
        let code = match &error {
            GuestError::Failed { kind, .. } => match kind {
                FailureKind::NotFound | FailureKind::Forgotten => Code::NotFound,
                FailureKind::NoSuchDirectory | FailureKind::NoSuchUser | FailureKind::Invalid => {
                    Code::InvalidArgument
                }
                FailureKind::PermissionDenied => Code::PermissionDenied,
                FailureKind::NoSpace | FailureKind::TooMany => Code::ResourceExhausted,
                FailureKind::Exists => Code::AlreadyExists,
                FailureKind::NotEmpty => Code::FailedPrecondition,
                FailureKind::Unsupported => Code::Unimplemented,
                FailureKind::Cancelled | FailureKind::Io => Code::Internal,
                _ => Code::Internal,
            },
            GuestError::Invalid(_) | GuestError::TooLarge(_) => Code::InvalidArgument,
            GuestError::TooMuchOutput { .. } => Code::ResourceExhausted,
            GuestError::NoAnswer { .. } => Code::DeadlineExceeded,
            GuestError::Closed { .. } | GuestError::TakenOver | GuestError::Interrupted { .. } => {
                Code::Unavailable
            }
            _ => Code::Internal,
        };
        let message = match &error {
            // May tell of the host: the last lines of its VMM.
            GuestError::Closed { .. } => "the connection to the sandbox is over".to_owned(),
            GuestError::Failed { message, .. } => message.clone(),
            other => other.to_string(),
        };
        Self { code, message }
    }
}

impl From<RpcFailure> for Failure {
    /// As E2B's agent answers to transfers of files.
    fn from(failure: RpcFailure) -> Self {
        let status = match failure.code {
            Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
            code => status(code),
        };
        Self::new(status, failure.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_host_is_not_told_to_clients() {
        let error = SandboxError::Random("/dev/urandom is a lie".to_owned());
        let failure = Failure::of(&error, None);
        assert_eq!(failure.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!failure.message.contains("/dev"), "{}", failure.message);
    }

    #[test]
    fn a_code_is_spelt_as_the_protocol_does() {
        let failure = RpcFailure::not_found("x");
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(text, r#"{"code":"not_found","message":"x"}"#);
    }
}
