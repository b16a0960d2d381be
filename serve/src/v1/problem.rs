//! Failures as RFC 9457 has them: `application/problem+json`, with a kind for programs.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ironclaw_orchestrator::vm::{ErrorKind, FailureKind as GuestFailure, GuestError, PoolError};
use serde::Serialize;
use utoipa::openapi::{self, ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::caller::Stranger;
use crate::causes::causes;
use crate::database::DatabaseError;
use crate::host_fault::HostFault;
use crate::new_sandbox::InvalidSandbox;
use crate::observe::FailureKind;
use crate::sandbox::SandboxError;
use crate::templates::TemplateError;
use crate::whole_body::BodyError;

/// Seconds after which a client may ask again when there was no room.
const RETRY_AFTER: &str = "1";

const CONTENT: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The kind of a failure. More may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The request is not one that is served.
    Invalid,
    /// No key, or none that is known.
    Unauthorized,
    /// There is no such call.
    NoCall,
    /// The call exists, and not by this method.
    NoMethod,
    /// There is no such sandbox, template, snapshot or command.
    NotFound,
    /// The sandbox is paused: resume it first.
    Paused,
    /// Something of that name is there already, or in use.
    Conflict,
    /// A request with the same Idempotency-Key asked for something else.
    KeyReused,
    /// There are as many sandboxes as there may be.
    TooMany,
    /// There are as many builds as there may be.
    TooManyBuilds,
    /// There is no room on this node now.
    NoRoom,
    /// The node takes no new sandboxes.
    Draining,
    /// More bytes than may be sent or collected.
    TooLarge,
    /// The request took too long to come.
    Slow,
    /// There is no such file in the guest.
    NoFile,
    /// There is no such working directory in the guest.
    NoDirectory,
    /// No program of the guest listens on the port.
    PortClosed,
    /// The guest's user, or the client, may not do that.
    Forbidden,
    /// The guest's disk or one of its tables is full.
    GuestFull,
    /// The guest did not answer in time.
    GuestSilent,
    /// The guest is gone, or its connection was lost meanwhile.
    GuestLost,
    /// The guest can't do that.
    Guest,
    /// This daemon, or the guest's agent, can't do that.
    Unsupported,
    /// The template's machine is not the one that is asked for.
    OtherMachine,
    /// Neither the image nor the request says what to run.
    NoCommand,
    /// Another process holds the lock of the daemon's database: nothing is changed.
    DatabaseLocked,
    /// The daemon's database can't be read or written: nothing is changed.
    DatabaseDamaged,
    /// A disk of the host is full: nothing is changed.
    HostFull,
    /// A failure of the host; its log has the reason.
    Internal,
}

impl Kind {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid | Self::NoCommand => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoCall | Self::NotFound | Self::NoFile => StatusCode::NOT_FOUND,
            Self::NoMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Paused | Self::Conflict | Self::OtherMachine => StatusCode::CONFLICT,
            Self::KeyReused | Self::NoDirectory | Self::Guest => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany | Self::TooManyBuilds => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoom | Self::Draining | Self::DatabaseLocked => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::GuestFull | Self::HostFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::GuestSilent => StatusCode::GATEWAY_TIMEOUT,
            Self::GuestLost | Self::PortClosed => StatusCode::BAD_GATEWAY,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::DatabaseDamaged | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns whether the same request may succeed in a moment though nobody changes anything.
    fn may_pass(self) -> bool {
        matches!(
            self,
            Self::TooMany
                | Self::TooManyBuilds
                | Self::NoRoom
                | Self::Draining
                | Self::DatabaseLocked
        )
    }

    fn title(self) -> &'static str {
        match self {
            Self::Invalid => "The request is not valid",
            Self::Unauthorized => "An API key is needed",
            Self::NoCall => "There is no such call",
            Self::NoMethod => "The call has another method",
            Self::NotFound => "Not found",
            Self::Paused => "The sandbox is paused",
            Self::Conflict => "Something is in the way",
            Self::KeyReused => "The Idempotency-Key was used for another request",
            Self::TooMany => "There are as many sandboxes as there may be",
            Self::TooManyBuilds => "There are as many builds as there may be",
            Self::NoRoom => "There is no room now",
            Self::Draining => "The node takes no new sandboxes",
            Self::TooLarge => "Too large",
            Self::Slow => "The request took too long",
            Self::NoFile => "There is no such file",
            Self::NoDirectory => "There is no such working directory",
            Self::PortClosed => "The port is closed",
            Self::Forbidden => "That may not be done",
            Self::GuestFull => "The guest is full",
            Self::GuestSilent => "The guest did not answer in time",
            Self::GuestLost => "The guest is gone",
            Self::Guest => "The guest can't do that",
            Self::Unsupported => "Not supported",
            Self::OtherMachine => "The machine is another",
            Self::NoCommand => "There is nothing to run",
            Self::DatabaseLocked => "The daemon's database is locked",
            Self::DatabaseDamaged => "The daemon's database can't be used",
            Self::HostFull => "A disk of the host is full",
            Self::Internal => "A failure of the host",
        }
    }
}

/// A failure (RFC 9457). No path of the host is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// A URI that names the kind.
    #[serde(rename = "type")]
    #[schema(example = "urn:ironclaw:problem:not_found")]
    uri: String,
    /// The kind, for people.
    title: String,
    /// The status of the answer.
    #[schema(example = 404)]
    status: u16,
    /// What happened this time.
    pub(super) detail: String,
    /// The kind, for programs.
    pub(super) kind: Kind,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let name = serde_json::to_value(kind).ok();
        let name = name.as_ref().and_then(|name| name.as_str());
        Self {
            uri: format!("urn:ironclaw:problem:{}", name.unwrap_or_default()),
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            kind,
        }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// Logs what clients are not told, since it may have paths of the host.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = causes(error), "a request has failed");
        let Some(fault) = HostFault::of(error) else {
            return Self::new(Kind::Internal, "the daemon's log has the reason");
        };
        let kind = match fault {
            HostFault::DatabaseLocked => Kind::DatabaseLocked,
            HostFault::DatabaseDamaged => Kind::DatabaseDamaged,
            HostFault::DiskFull => Kind::HostFull,
        };
        Self::new(kind, fault.text())
    }
}

/// Any call may fail, in this form.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let schema = Ref::from_schema_name(Self::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().content("application/problem+json", content);
        BTreeMap::from([("default".to_owned(), response.build().into())])
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = self.kind;
        let name = self.uri.rsplit(':').next().unwrap_or_default().to_owned();
        let mut response = (kind.status(), Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, CONTENT);
        if kind.may_pass() {
            let value = HeaderValue::from_static(RETRY_AFTER);
            headers.insert(header::RETRY_AFTER, value);
        }
        response.extensions_mut().insert(FailureKind(name));
        response
    }
}

impl From<Stranger> for Problem {
    fn from(stranger: Stranger) -> Self {
        match stranger {
            Stranger::Unknown(error) => Self::internal(&error),
            known => Self::new(Kind::Unauthorized, known.to_string()),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let kind = match error {
            BodyError::TooLarge(_) => Kind::TooLarge,
            BodyError::Slow => Kind::Slow,
            BodyError::Broken(_) => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        Self::internal(&error)
    }
}

impl From<TemplateError> for Problem {
    fn from(error: TemplateError) -> Self {
        match &error {
            TemplateError::Unknown(_) => Self::not_found(error.to_string()),
            TemplateError::Pool(
                pool @ (PoolError::WarmRange { .. } | PoolError::TooManyWarm { .. }),
            ) => Self::invalid(pool.to_string()),
            _ => Self::internal(&error),
        }
    }
}

impl From<SandboxError> for Problem {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Gone => Self::not_found(error.to_string()),
            SandboxError::Paused => Self::new(Kind::Paused, error.to_string()),
            SandboxError::TooMany(_) => Self::new(Kind::TooMany, error.to_string()),
            SandboxError::Draining | SandboxError::Refused => {
                Self::new(Kind::Draining, error.to_string())
            }
            SandboxError::KeyReused(_) => Self::new(Kind::KeyReused, error.to_string()),
            SandboxError::Invalid(error) => error.into(),
            SandboxError::Template(error) => (*error).into(),
            SandboxError::Guest(error) => error.into(),
            // Its VMM was killed, or its guest has ended by itself.
            SandboxError::Pause(error) if error.kind() == ErrorKind::VmOver => {
                tracing::warn!(error = causes(&error), "a sandbox can't be paused");
                Self::new(Kind::GuestLost, "the sandbox's VM is over")
            }
            busy if busy.is_busy() => {
                tracing::warn!(error = causes(&busy), "a sandbox is refused");
                Self::new(Kind::NoRoom, "there is no room for this sandbox now")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<InvalidSandbox> for Problem {
    fn from(error: InvalidSandbox) -> Self {
        let kind = match error {
            InvalidSandbox::Texts(_) => Kind::TooLarge,
            _ => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<GuestError> for Problem {
    fn from(error: GuestError) -> Self {
        let kind = match &error {
            GuestError::Failed { kind, .. } => match kind {
                GuestFailure::NotFound | GuestFailure::Forgotten => Kind::NoFile,
                GuestFailure::NoSuchDirectory => Kind::NoDirectory,
                GuestFailure::NoSuchUser | GuestFailure::Invalid => Kind::Invalid,
                GuestFailure::PermissionDenied => Kind::Forbidden,
                GuestFailure::NoSpace | GuestFailure::TooMany => Kind::GuestFull,
                GuestFailure::Exists | GuestFailure::NotEmpty => Kind::Conflict,
                GuestFailure::Unsupported => Kind::Unsupported,
                _ => Kind::Guest,
            },
            GuestError::Invalid(_) => Kind::Invalid,
            GuestError::TooLarge(_) | GuestError::TooMuchOutput { .. } => Kind::TooLarge,
            GuestError::NoAnswer { .. } => Kind::GuestSilent,
            GuestError::Closed { .. } | GuestError::TakenOver | GuestError::Interrupted { .. } => {
                Kind::GuestLost
            }
            _ => Kind::Internal,
        };
        let detail = match &error {
            // May tell of the host: the last lines of its VMM.
            GuestError::Closed { .. } => "the connection to the guest is over".to_owned(),
            GuestError::Failed { message, .. } => message.clone(),
            GuestError::TooMuchOutput { limit } => {
                format!("there are more than {limit} bytes; take them as a stream")
            }
            other => causes(other),
        };
        Self::new(kind, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_its_kind_thrice_and_nothing_of_the_host() {
        let error = SandboxError::Random("/dev/urandom is a lie".to_owned());
        let problem = Problem::from(error);
        assert_eq!(problem.kind, Kind::Internal);
        assert!(!problem.detail.contains("/dev"), "{}", problem.detail);
        let json = serde_json::to_value(Problem::from(SandboxError::Paused)).unwrap();
        assert_eq!(json["kind"], "paused");
        assert_eq!(json["type"], "urn:ironclaw:problem:paused");
        assert_eq!(json["status"], 409);
    }
}
