//! What the calls are served by, and who may ask.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::builds::Builds;
use crate::caller::Caller;
use crate::keys::Keys;
use crate::sandbox::{Live, Sandbox};
use crate::sandbox_id::SandboxId;
use crate::sandboxes::Sandboxes;
use crate::whole_body;

/// Limit of a request's body where it is no file, in bytes: what a command may have of arguments and
/// input, as JSON.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;

/// What requests are served by.
#[derive(Debug, Clone)]
pub(super) struct Api(Arc<Served>);

#[derive(Debug)]
struct Served {
    sandboxes: Sandboxes,
    keys: Keys,
    builds: Builds,
}

impl Api {
    pub(super) fn new(sandboxes: &Sandboxes, keys: &Keys, builds: &Builds) -> Self {
        Self(Arc::new(Served {
            sandboxes: sandboxes.clone(),
            keys: keys.clone(),
            builds: builds.clone(),
        }))
    }

    pub(super) fn sandboxes(&self) -> &Sandboxes {
        &self.0.sandboxes
    }

    pub(super) fn builds(&self) -> &Builds {
        &self.0.builds
    }

    /// Finds a sandbox by the text of its id.
    pub(super) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Problem> {
        let none = || Problem::not_found(format!("there is no sandbox {id:?}"));
        let known: SandboxId = id.parse().map_err(|_| none())?;
        self.0.sandboxes.get(&known).map_err(|_| none())
    }

    /// Finds a sandbox that runs, or is resumed by its use.
    pub(super) async fn live(&self, id: &str) -> Result<(Arc<Sandbox>, Live), Problem> {
        let sandbox = self.sandbox(id)?;
        let live = self.0.sandboxes.live(&sandbox).await?;
        Ok((sandbox, live))
    }

    /// Returns whether the database answers.
    pub(super) fn is_sound(&self) -> bool {
        self.0.keys.list().is_ok()
    }
}

/// Reads the body of a request as a whole, which is small, before it is served.
pub(super) async fn whole(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match whole_body::read(body, MAX_BODY).await {
        Ok(body) => next.run(Request::from_parts(parts, body.into())).await,
        Err(error) => Problem::from(error).into_response(),
    }
}

/// Lets in who has a key, or comes over the Unix socket.
pub(super) async fn by_key(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get().copied();
    match Caller::of(&api.0.keys, peer, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(caller);
            response
        }
        Err(stranger) => Problem::from(stranger).into_response(),
    }
}
