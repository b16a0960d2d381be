//! What has sandboxes of a template ready.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::api::Api;
use super::ask::Named;
use super::problem::Problem;
use crate::templates::{TemplateError, TemplatePool};

type Answer<T> = Result<T, Problem>;

/// The pool of a template.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pool {
    /// What its template is.
    template_hash: String,
    /// By which names it was asked for.
    names: Vec<String>,
    /// Its figures, as `ironclaw_orchestrator::vm::PoolStats` has them: snapshots, warm clones, VMs that
    /// were handed out, spawns that wait, what served, times.
    #[schema(value_type = Object)]
    stats: serde_json::Value,
}

impl Pool {
    fn of(names: Vec<String>, template: &TemplatePool) -> Self {
        let pool = &template.pool;
        Self {
            template_hash: pool.launcher().template().hash().to_string(),
            names,
            // Numbers and texts: they have a JSON.
            stats: serde_json::to_value(pool.stats()).unwrap_or_default(),
        }
    }
}

/// Lists the pools that are open: those of templates that were asked for.
#[utoipa::path(
    get, path = "/v1/pools", tag = "pools",
    responses(
        (status = 200, body = Vec<Pool>),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<Pool>> {
    let open = api.sandboxes().templates().open().await;
    let pools = open.into_iter();
    let pools = pools.map(|(names, template)| Pool::of(names, &template));
    Json(pools.collect())
}

async fn open(api: &Api, name: &str) -> Answer<Arc<TemplatePool>> {
    Ok(api.sandboxes().templates().named(name).await?)
}

/// Opens the pool of a template, and waits until it has its snapshots and warm clones.
#[utoipa::path(
    post, path = "/v1/pools/{template}/warmup", tag = "pools",
    params(("template" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = Pool),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn warm_up(
    State(api): State<Api>,
    Named(name): Named<String>,
) -> Answer<Json<Pool>> {
    let template = open(&api, &name).await?;
    let warmed = template.pool.warmup().await;
    warmed.map_err(TemplateError::Pool)?;
    Ok(Json(Pool::of(vec![name], &template)))
}

/// Replaces the snapshots of a template's pool, and waits for it.
#[utoipa::path(
    post, path = "/v1/pools/{template}/refresh", tag = "pools",
    params(("template" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = Pool),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn refresh(
    State(api): State<Api>,
    Named(name): Named<String>,
) -> Answer<Json<Pool>> {
    let template = open(&api, &name).await?;
    let refreshed = template.pool.refresh().await;
    refreshed.map_err(TemplateError::Pool)?;
    Ok(Json(Pool::of(vec![name], &template)))
}
