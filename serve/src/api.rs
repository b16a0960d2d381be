//! Which API a request is for, by its path, if it is not for a program in a sandbox.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router, middleware};
use tower_service::Service as _;

use crate::audit::Audit;
use crate::builds::Builds;
use crate::caller::{Caller, Stranger};
use crate::keys::Keys;
use crate::observe::{Observer, observe};
use crate::peer::Peer;
use crate::sandboxes::Sandboxes;
use crate::uploads::Uploads;
use crate::{e2b, v1};

/// Begins the paths of our own API.
const OURS: &str = "/v1/";

/// The path of the figures.
const METRICS: &str = "/metrics";

/// The directory for what clients send for templates, in that of the daemon.
const UPLOADS: &str = "uploads";

/// The content of Prometheus text.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone)]
struct Routers {
    ours: Router,
    figures: Router,
    e2b: Router,
}

/// Creates the routes of all APIs.
pub(crate) fn router(sandboxes: &Sandboxes, keys: &Keys, audit: Audit) -> Router {
    let observer = Observer::new(sandboxes, audit);
    let observed = middleware::from_fn_with_state(observer.clone(), observe);
    let figures = Router::new()
        .route(METRICS, get(figures))
        .with_state((observer, keys.clone()));
    let (templates, state) = (sandboxes.templates(), sandboxes.state_directory());
    let limit = templates.config().max_root_bytes();
    let uploads = Uploads::new(state.join(UPLOADS), limit);
    let builds = Builds::new(templates.clone(), uploads);
    let routers = Routers {
        ours: v1::router(sandboxes, keys, &builds).layer(observed.clone()),
        figures: figures.layer(observed.clone()),
        e2b: e2b::router(sandboxes.clone(), keys.clone(), builds).layer(observed),
    };
    Router::new().fallback(choose).with_state(routers)
}

async fn choose(State(routers): State<Routers>, request: Request) -> Response {
    let path = request.uri().path();
    let mut router = match path {
        _ if e2b::is_for_port(request.headers()) => routers.e2b,
        METRICS => routers.figures,
        path if path.starts_with(OURS) => routers.ours,
        _ => routers.e2b,
    };
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Answers with the figures, to who has a key: they name templates and calls.
async fn figures(
    State((observer, keys)): State<(Observer, Keys)>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    match Caller::of(&keys, peer, request.headers()) {
        Ok(_) => ([(header::CONTENT_TYPE, TEXT)], observer.text().await).into_response(),
        Err(stranger) => {
            let status = match stranger {
                Stranger::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
                Stranger::NoKey | Stranger::BadKey => StatusCode::UNAUTHORIZED,
            };
            (status, format!("{stranger}\n")).into_response()
        }
    }
}
