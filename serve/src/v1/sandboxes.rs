//! The life of sandboxes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api::Api;
use super::ask::{Body, Named, read};
use super::problem::Problem;
use super::shapes::{Create, Info, LIFETIME};
use crate::caller::Caller;
use crate::new_sandbox::lifetime;
use crate::sandbox::Sandbox;
use crate::sandbox_id::SandboxId;
use crate::secret;

/// Limit of an Idempotency-Key, in bytes.
const MAX_KEY: usize = 255;

type Answer<T> = Result<T, Problem>;

/// Returns the Idempotency-Key of a request.
fn idempotency_key(headers: &HeaderMap) -> Answer<Option<&str>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let bad = || {
        Problem::invalid(format!(
            "an Idempotency-Key has 1 to {MAX_KEY} bytes of ASCII"
        ))
    };
    let text = value.to_str().map_err(|_| bad())?;
    match text.is_empty() || text.len() > MAX_KEY {
        true => Err(bad()),
        false => Ok(Some(text)),
    }
}

/// Makes a sandbox.
///
/// With an Idempotency-Key a request that is repeated returns the sandbox that the first one made, as long
/// as that exists, also from the next daemon.
#[utoipa::path(
    post, path = "/v1/sandboxes", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 bytes of the client's choice")),
    request_body = Create,
    responses(
        (status = 201, body = Info),
        Problem,
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<(StatusCode, Extension<SandboxId>, Json<Info>)> {
    let mut new = read::<Create>(&body)?.accept()?;
    if let Some(key) = idempotency_key(&headers)? {
        new.idempotency_key = Some(key.to_owned());
        new.request_hash = Some(secret::hash(&String::from_utf8_lossy(&body)));
    }
    let sandbox = api.sandboxes().create(new, &caller.0).await?;
    let made = Extension(sandbox.id.clone());
    Ok((StatusCode::CREATED, made, Json(Info::of(&sandbox))))
}

/// Looks at a sandbox.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, body = Info),
        Problem,
    )
)]
pub(super) async fn show(State(api): State<Api>, Named(id): Named<String>) -> Answer<Json<Info>> {
    Ok(Json(Info::of(&*api.sandbox(&id)?)))
}

/// Ends a sandbox for good, whether it runs or is paused.
#[utoipa::path(
    delete, path = "/v1/sandboxes/{id}", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 204),
        Problem,
    )
)]
pub(super) async fn delete(State(api): State<Api>, Named(id): Named<String>) -> Answer<StatusCode> {
    let sandbox = api.sandbox(&id)?;
    match api.sandboxes().kill(&sandbox).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no sandbox {id:?}"))),
    }
}

/// A lifetime, counted from now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lifetime {
    /// Seconds, a day at most. 300 by default.
    lifetime_seconds: Option<u64>,
    /// Whether the deadline may only become later.
    #[serde(default)]
    later_only: bool,
}

/// Gives a sandbox that runs another deadline.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/extend", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = Lifetime,
    responses(
        (status = 200, body = Info),
        Problem,
    )
)]
pub(super) async fn extend(
    State(api): State<Api>,
    Named(id): Named<String>,
    Body(asked): Body<Lifetime>,
) -> Answer<Json<Info>> {
    let sandbox = api.sandbox(&id)?;
    let lifetime = lifetime(asked.lifetime_seconds, LIFETIME)?;
    match asked.later_only {
        true => sandbox.extend(lifetime).await?,
        false => sandbox.set_lifetime(lifetime).await?,
    }
    Ok(Json(Info::of(&sandbox)))
}

/// What a change of a sandbox's state did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changed {
    /// Whether it was in another state before.
    changed: bool,
    sandbox: Info,
}

impl Changed {
    fn of(sandbox: &Arc<Sandbox>, changed: bool) -> Json<Self> {
        let sandbox = Info::of(sandbox);
        Json(Self { changed, sandbox })
    }
}

/// Writes a sandbox's memory to disk and ends its VM. Its commands go on when it is resumed.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/pause", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, body = Changed),
        Problem,
    )
)]
pub(super) async fn pause(
    State(api): State<Api>,
    Named(id): Named<String>,
) -> Answer<Json<Changed>> {
    let sandbox = api.sandbox(&id)?;
    let changed = api.sandboxes().pause(&sandbox).await?;
    Ok(Changed::of(&sandbox, changed))
}

/// Goes on with a paused sandbox, with this lifetime.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/resume", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = Lifetime,
    responses(
        (status = 200, body = Changed),
        Problem,
    )
)]
pub(super) async fn resume(
    State(api): State<Api>,
    Named(id): Named<String>,
    Body(asked): Body<Lifetime>,
) -> Answer<Json<Changed>> {
    let sandbox = api.sandbox(&id)?;
    let lifetime = lifetime(asked.lifetime_seconds, LIFETIME)?;
    let changed = api.sandboxes().resume(&sandbox, lifetime).await?;
    Ok(Changed::of(&sandbox, changed))
}
