//! What has sandboxes of a template ready.

use axum::Json;
use axum::extract::State;
use ironclaw_orchestrator::vm::{Pool as OrchestratorPool, PoolError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api::Api;
use super::ask::{Body, Named};
use super::problem::Problem;
use crate::templates::{TemplateError, TemplatePool};

type Answer<T> = Result<T, Problem>;

/// How many warm clones a pool keeps.
#[derive(Debug, Serialize, ToSchema)]
struct WarmClones {
    /// At least so many.
    min: usize,
    /// At most so many. If that is more, as many as the largest burst of the last three hours needed.
    max: usize,
    /// So many at this moment, as far as there is room.
    wanted: usize,
    /// Those that are there.
    ready: usize,
    /// Those that come.
    coming: usize,
}

/// The pool of a template.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pool {
    /// What its template is.
    template_hash: String,
    /// By which names it was asked for.
    names: Vec<String>,
    warm: WarmClones,
    /// Its figures, as `ironclaw_orchestrator::vm::PoolStats` has them: snapshots, warm clones, VMs that
    /// were handed out, spawns that wait, what served, times.
    #[schema(value_type = Object)]
    stats: serde_json::Value,
}

impl Pool {
    fn of(names: Vec<String>, template: &TemplatePool) -> Self {
        let pool = &template.pool;
        let (min, max) = pool.warm_range().into_inner();
        let stats = pool.stats();
        Self {
            template_hash: pool.launcher().template().hash().to_string(),
            names,
            warm: WarmClones {
                min,
                max,
                wanted: pool.wanted_warm(),
                ready: stats.warm,
                coming: stats.restoring,
            },
            // Numbers and texts: they have a JSON.
            stats: serde_json::to_value(stats).unwrap_or_default(),
        }
    }
}

/// Lists the pools that are open: those of templates that were asked for.
#[utoipa::path(
    get, path = "/v1/pools", tag = "pools",
    responses(
        (status = 200, body = Vec<Pool>),
        Problem,
    )
)]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<Pool>> {
    let open = api.sandboxes().templates().open().await;
    let pools = open.into_iter();
    let pools = pools.map(|(names, template)| Pool::of(names, &template));
    Json(pools.collect())
}

/// Opens the pool of a template, and does with it what takes a while.
async fn with_pool(
    api: &Api,
    name: String,
    work: impl AsyncFnOnce(&OrchestratorPool) -> Result<(), PoolError>,
) -> Answer<Json<Pool>> {
    let template = api.sandboxes().templates().named(&name).await?;
    work(&template.pool).await.map_err(TemplateError::Pool)?;
    Ok(Json(Pool::of(vec![name], &template)))
}

/// A number of warm clones.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolSize {
    /// At least so many are kept.
    min_warm: usize,
    /// At most so many; `min_warm` by default. If it is more, the pool keeps as many as the largest burst of the last
    /// three hours needed.
    max_warm: Option<usize>,
}

/// Has the pool of a template keep so many warm clones from now on, also that of the template which the name leads to
/// later. Until the daemon ends: the next one begins with its settings.
///
/// It returns at once; `warmup` waits for the clones. More than the host's limit of VMs and memory ever has room for are
/// refused; otherwise there are as many as there is room for, and they make room for sandboxes.
#[utoipa::path(
    put, path = "/v1/pools/{template}", tag = "pools",
    params(("template" = String, Path, description = "The template's name")),
    request_body = PoolSize,
    responses(
        (status = 200, body = Pool),
        Problem,
    )
)]
pub(super) async fn resize(
    State(api): State<Api>,
    Named(name): Named<String>,
    Body(size): Body<PoolSize>,
) -> Answer<Json<Pool>> {
    let warm = size.min_warm..=size.max_warm.unwrap_or(size.min_warm);
    let template = api.sandboxes().templates().set_warm(&name, warm).await?;
    Ok(Json(Pool::of(vec![name], &template)))
}

/// Opens the pool of a template, and waits until it has its snapshots and warm clones.
#[utoipa::path(
    post, path = "/v1/pools/{template}/warmup", tag = "pools",
    params(("template" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = Pool),
        Problem,
    )
)]
pub(super) async fn warm_up(
    State(api): State<Api>,
    Named(name): Named<String>,
) -> Answer<Json<Pool>> {
    with_pool(&api, name, async |pool| pool.warmup().await).await
}

/// Replaces the snapshots of a template's pool, and waits for it.
#[utoipa::path(
    post, path = "/v1/pools/{template}/refresh", tag = "pools",
    params(("template" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = Pool),
        Problem,
    )
)]
pub(super) async fn refresh(
    State(api): State<Api>,
    Named(name): Named<String>,
) -> Answer<Json<Pool>> {
    with_pool(&api, name, async |pool| pool.refresh().await).await
}
