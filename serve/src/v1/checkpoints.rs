//! States of sandboxes that are kept for others to begin from, and copies of sandboxes.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use ironclaw_orchestrator::template::TemplateName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api::Api;
use super::ask::{Body, Named};
use super::problem::Problem;
use super::shapes::{Info, LIFETIME, rfc3339};
use crate::caller::Caller;
use crate::checkpoints::SandboxCheckpoint;
use crate::new_sandbox::lifetime;

/// Copies that are made at a time, at most.
const MAX_FORKS: usize = 20;

type Answer<T> = Result<T, Problem>;

/// A checkpoint: what a sandbox was at some time. Its id, or its name, takes the place of a template's.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Checkpoint {
    id: String,
    name: Option<String>,
    /// The sandbox that it is of.
    sandbox: String,
    /// Who made it: the name of a key.
    owner: String,
    /// When it was made (RFC 3339).
    created: String,
}

impl Checkpoint {
    fn of(checkpoint: &SandboxCheckpoint) -> Self {
        let record = &checkpoint.record;
        Self {
            id: checkpoint.id.to_string(),
            name: record.name.clone(),
            sandbox: record.sandbox.clone(),
            owner: record.owner.clone(),
            created: rfc3339(record.created),
        }
    }
}

/// How a checkpoint is kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// A name by which it is found, until another one gets it.
    name: Option<String>,
}

/// Keeps the state of a sandbox that runs, which goes on.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/checkpoints", tag = "snapshots",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = Kept,
    responses(
        (status = 201, body = Checkpoint),
        Problem,
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named(id): Named<String>,
    Body(kept): Body<Kept>,
) -> Answer<(StatusCode, Json<Checkpoint>)> {
    let bad = |text: &String| Problem::invalid(format!("{text:?} is no name of a checkpoint"));
    let name = kept.name.as_ref();
    let name = name.map(|text| text.parse::<TemplateName>().map_err(|_| bad(text)));
    let name = name.transpose()?;
    let sandbox = api.sandbox(&id)?;
    let checkpoints = api.sandboxes().checkpoints();
    let made = checkpoints.add(&sandbox, name.as_ref(), &caller.0).await?;
    Ok((StatusCode::CREATED, Json(Checkpoint::of(&made))))
}

/// Lists the checkpoints, the newest first.
#[utoipa::path(
    get, path = "/v1/checkpoints", tag = "snapshots",
    responses(
        (status = 200, body = Vec<Checkpoint>),
        Problem,
    )
)]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<Checkpoint>> {
    let all = api.sandboxes().checkpoints().list().into_iter();
    let all = all.map(|(checkpoint, _)| Checkpoint::of(&checkpoint));
    Json(all.collect())
}

/// Deletes a checkpoint. Sandboxes that began from it go on.
#[utoipa::path(
    delete, path = "/v1/checkpoints/{id}", tag = "snapshots",
    params(("id" = String, Path, description = "The checkpoint's id or name")),
    responses(
        (status = 204),
        Problem,
    )
)]
pub(super) async fn delete(State(api): State<Api>, Named(id): Named<String>) -> Answer<StatusCode> {
    match api.sandboxes().checkpoints().remove(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no checkpoint {id:?}"))),
    }
}

/// How a sandbox is copied.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Copies {
    /// How many: 1 to 20.
    #[serde(default = "one")]
    #[schema(default = 1)]
    count: usize,
    /// Seconds until the deadline of each, a day at most. 300 by default.
    lifetime_seconds: Option<u64>,
}

fn one() -> usize {
    1
}

/// A copy, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Copied {
    /// The copy.
    Sandbox(Box<Info>),
    /// The reason why it could not be made.
    Problem(Problem),
}

/// Makes copies of a sandbox that runs, each with what runs in it, and an id of its own.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/fork", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = Copies,
    responses(
        (status = 201, body = Vec<Copied>),
        Problem,
    )
)]
pub(super) async fn fork(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named(id): Named<String>,
    Body(copies): Body<Copies>,
) -> Answer<(StatusCode, Json<Vec<Copied>>)> {
    if !(1..=MAX_FORKS).contains(&copies.count) {
        let text = format!("count is a number from 1 to {MAX_FORKS}");
        return Err(Problem::invalid(text));
    }
    let lifetime = lifetime(copies.lifetime_seconds, LIFETIME)?;
    let sandbox = api.sandbox(&id)?;
    let sandboxes = api.sandboxes();
    let made = sandboxes
        .fork(&sandbox, copies.count, lifetime, &caller.0)
        .await?;
    let made = made.into_iter().map(|copy| match copy {
        Ok(copy) => Copied::Sandbox(Box::new(Info::of(&copy))),
        Err(error) => Copied::Problem(error.into()),
    });
    Ok((StatusCode::CREATED, Json(made.collect())))
}
