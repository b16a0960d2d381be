//! Counts and records requests, of whatever API.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use ironclaw_orchestrator::vm::prometheus_text;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::audit::{self, Audit, Entry};
use crate::caller::Caller;
use crate::e2b;
use crate::peer::Peer;
use crate::sandbox::State as SandboxState;
use crate::sandbox_id::SandboxId;
use crate::sandboxes::Sandboxes;

const REQUESTS: &str = "ironclaw_http_requests_total";
const FAILURES: &str = "ironclaw_http_failures_total";
const SECONDS: &str = "ironclaw_http_request_seconds";
const SANDBOXES: &str = "ironclaw_sandboxes";
const LIMIT: &str = "ironclaw_sandboxes_limit";

/// Bounds of the times to an answer's head, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The route of what leads nowhere.
const NOWHERE: &str = "none";

/// Calls that say nothing about anybody, and come often.
const UNRECORDED: [&str; 6] = [
    "/health",
    "/metrics",
    "/v1/health",
    "/v1/openapi.json",
    "/v1/ready",
    "/v1/version",
];

/// The kind of a failure, as an answer has it for [`observe`].
#[derive(Debug, Clone)]
pub(crate) struct FailureKind(pub(crate) String);

/// Counts and records requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Observer(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    audit: Audit,
    sandboxes: Sandboxes,
}

impl Observer {
    pub(crate) fn new(sandboxes: &Sandboxes, audit: Audit) -> Self {
        // It refuses none at all; times would be summaries then.
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS);
        let recorder = builder.unwrap_or_default().build_recorder();
        with_local_recorder(&recorder, || {
            describe_counter!(REQUESTS, "Requests, by call, method and status.");
            describe_counter!(FAILURES, "Requests that failed, by call and kind.");
            let text = "Time until the head of the answer, by call.";
            describe_histogram!(SECONDS, Unit::Seconds, text);
            describe_gauge!(SANDBOXES, "Sandboxes by state.");
            describe_gauge!(LIMIT, "Sandboxes that there may be.");
        });
        Self(Arc::new(Inner {
            recorder,
            audit,
            sandboxes: sandboxes.clone(),
        }))
    }

    /// Returns all figures of the daemon and of its pools, as Prometheus text.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is a float, exact up to 2^53"
    )]
    pub(crate) async fn text(&self) -> String {
        let Inner {
            recorder,
            sandboxes,
            ..
        } = &*self.0;
        let all = sandboxes.list();
        let is_paused = |state| state == SandboxState::Paused;
        let paused = all.iter().filter(|it| is_paused(it.status().state)).count();
        with_local_recorder(recorder, || {
            gauge!(SANDBOXES, "state" => "running").set((all.len() - paused) as f64);
            gauge!(SANDBOXES, "state" => "paused").set(paused as f64);
            gauge!(LIMIT).set(sandboxes.limit() as f64);
        });
        let pools = prometheus_text().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pools can't be measured");
            String::new()
        });
        format!("{}{pools}", recorder.handle().render())
    }
}

/// Finds the sandbox that a request is about.
fn subject(route: &str, path: &str) -> Option<SandboxId> {
    let mut parts = route.split('/').zip(path.split('/'));
    parts.find(|(part, _)| *part == "sandboxes")?;
    let (_, id) = parts.next()?;
    id.parse().ok()
}

/// Counts and records a request.
pub(crate) async fn observe(
    State(observer): State<Observer>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| NOWHERE.to_owned(), |route| route.as_str().to_owned());
    let named = subject(&route, request.uri().path()).or_else(|| e2b::named(request.headers()));
    let peer = request.extensions().get().copied();
    let method = request.method().clone();
    let start = Instant::now();
    let response = next.run(request).await;
    let Inner {
        recorder, audit, ..
    } = &*observer.0;
    let status = response.status();
    let extensions = response.extensions();
    with_local_recorder(recorder, || {
        let (route, method) = (route.clone(), known(method.as_str()));
        counter!(REQUESTS, "route" => route.clone(), "method" => method, "status" => status.as_u16().to_string())
            .increment(1);
        histogram!(SECONDS, "route" => route.clone()).record(start.elapsed().as_secs_f64());
        if status.is_client_error() || status.is_server_error() {
            let kind = extensions.get::<FailureKind>().map(|kind| kind.0.clone());
            let kind = kind.unwrap_or_else(|| status.as_u16().to_string());
            counter!(FAILURES, "route" => route, "kind" => kind).increment(1);
        }
    });
    if !UNRECORDED.contains(&route.as_str()) {
        let made = extensions.get::<SandboxId>();
        audit.record(&Entry {
            time: audit::time(SystemTime::now()),
            by: extensions.get::<Caller>().map(|caller| caller.0.as_str()),
            local: peer == Some(Peer::Local),
            method: known(method.as_str()),
            route: &route,
            sandbox: made.or(named.as_ref()).map(SandboxId::as_str),
            status: status.as_u16(),
        });
    }
    response
}

/// Methods of a client's invention are not told apart: it could fill a table with them.
fn known(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    let found = KNOWN.into_iter().find(|known| *known == method);
    found.unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_of_a_call_is_found_by_its_route() {
        let id = "iabcdefghij2345678901";
        let of = |route, path: &str| subject(route, path).map(|id| id.to_string());
        let path = format!("/v1/sandboxes/{id}/exec");
        assert_eq!(of("/v1/sandboxes/{id}/exec", &path).as_deref(), Some(id));
        assert_eq!(of("/v2/sandboxes", "/v2/sandboxes"), None);
        assert_eq!(of("/sandboxes/{id}", "/sandboxes/..%2f"), None);
    }

    #[test]
    fn methods_of_a_clients_invention_are_one() {
        assert_eq!((known("GET"), known("GOT")), ("GET", "other"));
    }
}
