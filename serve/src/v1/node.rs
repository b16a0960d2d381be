//! The machine: what it can take, and whether it takes more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ironclaw_orchestrator::vm::{Budget, Limit};
use serde::Serialize;
use utoipa::ToSchema;

use super::api::Api;
use super::problem::{Kind, Problem};
use crate::sandbox::State as SandboxState;

/// Whether the daemon answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Returns that the daemon answers. Needs no key.
#[utoipa::path(
    get, path = "/v1/health", tag = "node",
    responses((status = 200, body = Health))
)]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Returns whether the daemon makes sandboxes: its database answers, and it is not draining. Needs no key.
#[utoipa::path(
    get, path = "/v1/ready", tag = "node",
    responses(
        (status = 200, body = Health),
        Problem,
    )
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    if api.sandboxes().is_draining() {
        let text = "the node is draining, or the daemon is ending";
        return Err(Problem::new(Kind::Draining, text));
    }
    match api.is_sound() {
        true => Ok(Json(Health { status: "ok" })),
        false => Err(Problem::new(Kind::NoRoom, "the database does not answer")),
    }
}

/// The version of the daemon.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// The version of this API.
    #[schema(example = "v1")]
    api: &'static str,
}

/// Returns the version of the daemon. Needs no key.
#[utoipa::path(
    get, path = "/v1/version", tag = "node",
    responses((status = 200, body = Version))
)]
pub(super) async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION"),
        api: "v1",
    })
}

/// A number of VMs and an amount of memory.
#[derive(Debug, Serialize, ToSchema)]
struct Room {
    /// VMs; nothing for any number.
    vms: Option<usize>,
    /// Memory of guests and of what runs them.
    memory_mib: u64,
}

impl From<Limit> for Room {
    fn from(limit: Limit) -> Self {
        Self {
            vms: Some(limit.vms).filter(|vms| *vms != usize::MAX),
            memory_mib: limit.memory_mib,
        }
    }
}

/// The machine.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// What all VMs may take together.
    capacity: Room,
    /// What they take, warm clones among them.
    used: Room,
    /// Sandboxes that run.
    running: usize,
    /// Sandboxes that are paused.
    paused: usize,
    /// Sandboxes that there may be, running and paused ones together.
    sandbox_limit: usize,
    /// Whether it takes no new sandboxes.
    draining: bool,
}

impl Node {
    fn of(api: &Api) -> Self {
        let sandboxes = api.sandboxes();
        let all = sandboxes.list();
        let is_paused = |sandbox: &&std::sync::Arc<crate::sandbox::Sandbox>| {
            sandbox.status().state == SandboxState::Paused
        };
        let paused = all.iter().filter(is_paused).count();
        let budget = Budget::of_host();
        Self {
            capacity: budget.limit().into(),
            used: budget.used().into(),
            running: all.len() - paused,
            paused,
            sandbox_limit: sandboxes.limit(),
            draining: sandboxes.is_draining(),
        }
    }
}

/// Looks at the machine.
#[utoipa::path(
    get, path = "/v1/node", tag = "node",
    responses(
        (status = 200, body = Node),
        Problem,
    )
)]
pub(super) async fn show(State(api): State<Api>) -> Json<Node> {
    Json(Node::of(&api))
}

/// Takes no new sandboxes from now on; those that run go on until they end.
#[utoipa::path(
    post, path = "/v1/node/drain", tag = "node",
    responses(
        (status = 202, body = Node),
        Problem,
    )
)]
pub(super) async fn drain(State(api): State<Api>) -> (StatusCode, Json<Node>) {
    api.sandboxes().refuse_new();
    (StatusCode::ACCEPTED, Json(Node::of(&api)))
}

/// Takes new sandboxes again.
#[utoipa::path(
    delete, path = "/v1/node/drain", tag = "node",
    responses(
        (status = 200, body = Node),
        Problem,
    )
)]
pub(super) async fn undrain(State(api): State<Api>) -> Json<Node> {
    api.sandboxes().take_new();
    Json(Node::of(&api))
}
