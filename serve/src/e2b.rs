//! E2B's API, as its SDKs speak it: a control plane of JSON over HTTP, and in each sandbox RPCs of the
//! Connect protocol (<https://connectrpc.com/docs/protocol>) and transfers of files.
//!
//! The facts are those of the official SDKs (`e2b` on PyPI and npm) and of
//! <https://github.com/e2b-dev/infra>: `spec/openapi.yml`, `packages/envd/spec`.

mod access;
mod api;
mod build_request;
mod control;
mod entries;
mod envelope;
mod failure;
mod files;
mod filesystem;
mod gunzip;
mod listing;
mod logs;
mod metadata;
mod metrics;
mod network;
mod paging;
mod ports;
mod process;
mod process_events;
mod rpc;
mod shapes;
mod signature;
mod snapshots;
mod tags;
mod templates;
mod user_files;
mod watch;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::routing::{any, delete, get, post, put};
use axum::{Router, middleware};

use crate::builds::Builds;
use crate::keys::Keys;
use crate::sandbox_id::SandboxId;
use crate::sandboxes::Sandboxes;
use api::{Api, MAX_BODY, Served};
use failure::Failure;

/// Returns whether a request is for a program on a port of a sandbox, whatever its path is.
pub(crate) fn is_for_port(headers: &HeaderMap) -> bool {
    access::Target::of(headers).is_some_and(|target| !target.is_agent())
}

/// Returns the sandbox that a request names by its host or by headers.
pub(crate) fn named(headers: &HeaderMap) -> Option<SandboxId> {
    access::Target::of(headers).map(|target| target.id)
}

/// Creates the routes.
pub(crate) fn router(sandboxes: Sandboxes, keys: Keys, builds: Builds) -> Router {
    let api = Api(Arc::new(Served {
        uploads: builds.uploads().clone(),
        builds,
        sandboxes,
        keys,
    }));
    let control = Router::new()
        .route("/sandboxes", post(control::create_v1).get(listing::running))
        .route("/v2/sandboxes", post(control::create).get(listing::list))
        .route("/sandboxes/{id}", get(control::info))
        .route("/sandboxes/{id}", delete(control::kill))
        .route("/sandboxes/{id}/timeout", post(control::set_timeout))
        .route("/sandboxes/{id}/metrics", get(metrics::metrics))
        .route("/sandboxes/{id}/logs", get(logs::logs_v1))
        .route("/v2/sandboxes/{id}/logs", get(logs::logs))
        .route("/sandboxes/{id}/network", put(control::set_network))
        .route("/sandboxes/{id}/refreshes", post(control::refresh))
        .route("/sandboxes/{id}/snapshots", post(snapshots::create))
        .route("/sandboxes/{id}/fork", post(snapshots::fork))
        .route("/snapshots", get(snapshots::list))
        .route("/templates/{id}", delete(snapshots::delete))
        .route("/templates/tags", post(tags::assign).delete(tags::remove))
        .route("/templates/{id}/tags", get(tags::list))
        .route("/templates/aliases/{alias}", get(templates::alias))
        .route("/v3/templates", post(templates::ask))
        .route("/templates/{id}/files/{hash}", get(templates::upload_place))
        .route("/v2/templates/{id}/builds/{build}", post(templates::begin))
        .route(
            "/templates/{id}/builds/{build}/status",
            get(templates::status),
        )
        .route("/sandboxes/{id}/pause", post(control::pause))
        .route("/sandboxes/{id}/resume", post(control::connect))
        .route("/sandboxes/{id}/connect", post(control::connect))
        .route("/v2/sandboxes/{id}/connect", post(control::connect))
        .layer(middleware::from_fn_with_state(api.clone(), access::by_key));
    let guest = Router::new()
        .route("/health", get(access::health))
        .route("/process.Process/{call}", post(process::call))
        .route("/filesystem.Filesystem/{call}", post(filesystem::call))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    // Bounded by the guest's disk, and by the size of a template.
    let files = Router::new()
        .route("/uploads", put(templates::upload))
        .route("/files", get(files::download).post(files::upload))
        .layer(DefaultBodyLimit::disable());
    control
        .merge(guest)
        .merge(files)
        .fallback(any(|| async { Failure::no_route() }))
        .method_not_allowed_fallback(|| async { Failure::no_method() })
        .layer(middleware::from_fn_with_state(
            api.clone(),
            ports::by_target,
        ))
        .with_state(api)
}
