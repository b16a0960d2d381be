//! Snapshots of sandboxes, from which others begin, and forks.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use ironclaw_orchestrator::template::TemplateName;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::Api;
use super::control::{find, json as read};
use super::failure::Failure;
use super::paging::{self, PAGE, pairs};
use super::shapes::{Created, lifetime, untagged};
use crate::caller::Caller;
use crate::checkpoints::SandboxCheckpoint;

/// Lifetime of a fork whose maker names none.
const LIFETIME: Duration = Duration::from_secs(300);

/// Forks of one request, at most, as in E2B's API.
const MAX_FORKS: usize = 20;

#[derive(Debug, Deserialize)]
struct NewSnapshot {
    name: Option<String>,
}

/// A snapshot, as clients know it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(rename = "snapshotID")]
    id: &'a str,
    names: Vec<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(checkpoint: &'a SandboxCheckpoint, has_name: bool) -> Self {
        let name = checkpoint.record.name.as_deref().filter(|_| has_name);
        Self {
            id: checkpoint.id.as_str(),
            names: name.into_iter().collect(),
        }
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let NewSnapshot { name } = read(&body)?;
    let name = name
        .as_deref()
        .map(untagged)
        .map(str::parse::<TemplateName>);
    let name = name.transpose();
    let name = name.map_err(|error| Failure::bad_request(error.to_string()))?;
    let sandbox = find(&api, &id)?;
    let checkpoints = api.0.sandboxes.checkpoints();
    let made = checkpoints.add(&sandbox, name.as_ref(), &caller.0).await;
    let made = made.map_err(|error| Failure::of(&error, Some(&sandbox.id)))?;
    tracing::info!(sandbox = %sandbox.id, snapshot = %made.id, by = caller.0, "a snapshot is made");
    Ok((StatusCode::CREATED, Json(Shown::of(&made, true))).into_response())
}

pub(super) async fn list(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let (mut sandbox, mut name, mut limit, mut after) = (None, None, PAGE, None);
    for (key, value) in pairs(&query.unwrap_or_default()) {
        match key.as_str() {
            "sandboxID" => sandbox = Some(value),
            "name" => name = Some(untagged(&value).to_owned()),
            "limit" => limit = paging::limit(&value)?,
            "nextToken" => after = Some(value),
            _ => {}
        }
    }
    let mut found = api.0.sandboxes.checkpoints().list();
    if let Some(after) = after {
        let place = found.iter().position(|(one, _)| one.id.as_str() == after);
        found.drain(..place.map_or(found.len(), |place| place + 1));
    }
    found.retain(|(one, has_name)| {
        let is_of = sandbox.as_ref().is_none_or(|of| one.record.sandbox == *of);
        let is_named = |name: &String| *has_name && one.record.name.as_ref() == Some(name);
        is_of && name.as_ref().is_none_or(is_named)
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let page: Vec<_> = found
        .iter()
        .map(|(one, has)| Shown::of(one, *has))
        .collect();
    let mut response = Json(page).into_response();
    if let (true, Some((last, _))) = (more, found.last()) {
        paging::next(&mut response, last.id.as_str());
    }
    Ok(response)
}

/// Deletes a snapshot. Templates are deleted by `ironclaw template delete` alone.
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let removed = api.0.sandboxes.checkpoints().remove(untagged(&id)).await;
    let removed = removed.map_err(|error| Failure::of(&error.into(), None))?;
    if !removed {
        let text = format!("there is no snapshot {id:?}");
        return Err(Failure::new(StatusCode::NOT_FOUND, text));
    }
    tracing::info!(snapshot = id, by = caller.0, "a snapshot is deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct Fork {
    timeout: Option<u64>,
    count: Option<usize>,
}

/// Makes copies of a sandbox. One that can't be made is told in its place.
pub(super) async fn fork(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let Fork { timeout, count } = read(&body)?;
    let lifetime = lifetime(timeout, LIFETIME)?;
    let count = count.unwrap_or(1);
    if !(1..=MAX_FORKS).contains(&count) {
        let text = format!("count is a number from 1 to {MAX_FORKS}");
        return Err(Failure::bad_request(text));
    }
    let sandbox = find(&api, &id)?;
    let sandboxes = &api.0.sandboxes;
    let forks = sandboxes.fork(&sandbox, count, lifetime, &caller.0).await;
    let forks = forks.map_err(|error| Failure::of(&error, Some(&sandbox.id)))?;
    tracing::info!(sandbox = %sandbox.id, count, by = caller.0, "a sandbox is forked");
    let shown: Vec<_> = forks
        .iter()
        .map(|fork| match fork {
            Ok(fork) => json!({ "sandbox": Created::of(fork) }),
            Err(error) => json!({ "error": Failure::of(error, None).body() }),
        })
        .collect();
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}
