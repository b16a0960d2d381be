//! Which API a request is for, by its path, if it is not for a program in a sandbox.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use tower_service::Service as _;

use crate::keys::Keys;
use crate::sandboxes::Sandboxes;
use crate::{e2b, v1};

/// Begins the paths of our own API.
const OURS: &str = "/v1/";

#[derive(Debug, Clone)]
struct Routers {
    ours: Router,
    e2b: Router,
}

/// Creates the routes of all APIs.
pub(crate) fn router(sandboxes: &Sandboxes, keys: &Keys) -> Router {
    let routers = Routers {
        ours: v1::router(sandboxes, keys),
        e2b: e2b::router(sandboxes.clone(), keys.clone()),
    };
    Router::new().fallback(choose).with_state(routers)
}

async fn choose(State(routers): State<Routers>, request: Request) -> Response {
    let is_ours = request.uri().path().starts_with(OURS);
    let mut router = match is_ours && !e2b::is_for_port(request.headers()) {
        true => routers.ours,
        false => routers.e2b,
    };
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
