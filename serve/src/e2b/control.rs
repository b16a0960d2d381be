//! The life of sandboxes: made, looked at, extended, paused, resumed, killed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::api::{Api, sandbox_id};
use super::failure::Failure;
use super::network::Network;
use super::shapes::{Create, Created, Detail, lifetime};
use crate::caller::Caller;
use crate::sandbox::{Sandbox, SandboxError};

/// Lifetime of a sandbox whose maker names none.
const LIFETIME: Duration = Duration::from_secs(300);

/// The same, in the first version of the API.
const LIFETIME_V1: Duration = Duration::from_secs(15);

/// The header by which a request that is sent again is known.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Limit of its value, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;

type Answer = Result<Response, Failure>;

/// Reads a body of JSON, of which nothing is an empty object.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = match body.trim_ascii() {
        [] => b"{}".as_slice(),
        body => body,
    };
    serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!("the body is not the JSON expected: {error}"))
    })
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    make(&api, &caller, &headers, &body, LIFETIME).await
}

pub(super) async fn create_v1(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    make(&api, &caller, &headers, &body, LIFETIME_V1).await
}

async fn make(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    default: Duration,
) -> Answer {
    let mut new = json::<Create>(body)?.accept(default)?;
    new.idempotency_key = idempotency_key(headers)?;
    let made = api.0.sandboxes.create(new, &caller.0).await;
    let sandbox = made.map_err(|error| Failure::of(&error, None))?;
    tracing::info!(sandbox = %sandbox.id, by = caller.0, "a sandbox is made");
    let made = Extension(sandbox.id.clone());
    Ok((StatusCode::CREATED, made, Json(Created::of(&sandbox))).into_response())
}

/// Reads the key by which a request that is sent again is known.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = key.to_str().ok();
    let key = key.filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()));
    let bad = || {
        let text = format!("the header Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} characters");
        Failure::bad_request(text)
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(bad)
}

pub(super) fn find(api: &Api, id: &str) -> Result<Arc<Sandbox>, Failure> {
    let id = sandbox_id(id).map_err(|_| {
        Failure::new(
            StatusCode::NOT_FOUND,
            format!("sandbox {id:?} was not found"),
        )
    })?;
    let found = api.0.sandboxes.get(&id);
    found.map_err(|error| Failure::of(&error, Some(&id)))
}

fn failure(sandbox: &Sandbox) -> impl Fn(SandboxError) -> Failure {
    |error| Failure::of(&error, Some(&sandbox.id))
}

pub(super) async fn info(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let sandbox = find(&api, &id)?;
    Ok(Json(Detail::of(&sandbox)).into_response())
}

pub(super) async fn kill(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answer {
    let sandbox = find(&api, &id)?;
    let there = api
        .0
        .sandboxes
        .kill(&sandbox)
        .await
        .map_err(failure(&sandbox))?;
    if !there {
        return Err(Failure::of(&SandboxError::Gone, Some(&sandbox.id)));
    }
    tracing::info!(sandbox = %sandbox.id, by = caller.0, "a sandbox is killed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct Timeout {
    timeout: u64,
}

pub(super) async fn set_timeout(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let Timeout { timeout } = json(&body)?;
    let lifetime = lifetime(Some(timeout), LIFETIME)?;
    let sandbox = find(&api, &id)?;
    let set = sandbox.set_lifetime(lifetime).await;
    set.map_err(failure(&sandbox))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct Refresh {
    duration: Option<u64>,
}

pub(super) async fn refresh(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> Answer {
    let Refresh { duration } = json(&body)?;
    let lifetime = lifetime(duration, LIFETIME_V1)?;
    let sandbox = find(&api, &id)?;
    let extended = sandbox.extend(lifetime).await;
    extended.map_err(failure(&sandbox))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct Pause {
    memory: Option<bool>,
}

pub(super) async fn pause(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let Pause { memory } = json(&body)?;
    if memory == Some(false) {
        return Err(Failure::bad_request(
            "a sandbox is paused with its memory: \"memory\" can't be false",
        ));
    }
    let sandbox = find(&api, &id)?;
    let ran = api.0.sandboxes.pause(&sandbox).await;
    if !ran.map_err(failure(&sandbox))? {
        return Err(Failure::of(&SandboxError::Paused, Some(&sandbox.id)));
    }
    tracing::info!(sandbox = %sandbox.id, by = caller.0, "a sandbox is paused");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Changes what a sandbox may reach: nothing outside, whatever is denied.
pub(super) async fn set_network(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    json::<Network>(&body)?.accept_update()?;
    find(&api, &id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct Connect {
    timeout: Option<u64>,
}

/// Resumes a sandbox that is paused; lets one that runs live longer, but never shorter.
pub(super) async fn connect(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> Answer {
    let Connect { timeout } = json(&body)?;
    let lifetime = lifetime(timeout, LIFETIME)?;
    let sandbox = find(&api, &id)?;
    let resumed = api.0.sandboxes.resume(&sandbox, lifetime).await;
    let status = match resumed.map_err(failure(&sandbox))? {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(Created::of(&sandbox))).into_response())
}
