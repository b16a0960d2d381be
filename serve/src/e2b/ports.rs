//! Requests to the ports of a sandbox, by the host name `PORT-ID.DOMAIN` or by headers.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::access::{PORT, Refused, SANDBOX, Target};
use super::api::Api;
use crate::ports::PortError;

/// The header with the token of a sandbox whose ports ask for one.
const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";

/// Passes a request to a port of a sandbox on to it; all others go on to the API.
pub(super) async fn by_target(State(api): State<Api>, request: Request, next: Next) -> Response {
    match Target::of(request.headers()) {
        Some(target) if !target.is_agent() => forward(&api, &target, request).await,
        _ => next.run(request).await,
    }
}

async fn forward(api: &Api, target: &Target, mut request: Request) -> Response {
    let id = &target.id;
    let Ok(sandbox) = api.0.sandboxes.get(id) else {
        return Refused::gone(id.as_str()).into_response();
    };
    let access = &sandbox.record.ports;
    let headers = request.headers_mut();
    let presented = headers.remove(TRAFFIC_TOKEN);
    let presented = presented.as_ref().and_then(|token| token.to_str().ok());
    if !access.admits(presented) {
        let text = "the header E2b-Traffic-Access-Token has not this sandbox's token";
        return refuse(target, StatusCode::FORBIDDEN, text);
    }
    rename(headers, access.host_of(target.port));
    let live = match api.0.sandboxes.live(&sandbox).await {
        Ok(live) => live,
        Err(error) => return Refused::of(&error, id).into_response(),
    };
    match live.ports.forward(&live.vm, target.port, request).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(sandbox = %id, port = target.port, ?error, "a port does not answer");
            let status = match error {
                PortError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                PortError::Request => StatusCode::BAD_REQUEST,
                PortError::NotOpen | PortError::Guest(_) | PortError::Http(_) => {
                    StatusCode::BAD_GATEWAY
                }
            };
            let text = match error {
                // The SDKs know it by these words.
                PortError::NotOpen => "The sandbox is running but port is not open".to_owned(),
                error => error.to_string(),
            };
            refuse(target, status, &text)
        }
    }
}

/// Takes out what was for the daemon alone, and tells the host name that was asked for.
fn rename(headers: &mut HeaderMap, host: Option<String>) {
    headers.remove(SANDBOX);
    headers.remove(PORT);
    if let Some(Ok(host)) = host.map(HeaderValue::try_from) {
        headers.insert(header::HOST, host);
    }
}

fn refuse(target: &Target, status: StatusCode, message: &str) -> Response {
    let body = json!({
        "sandboxId": target.id.as_str(),
        "message": message,
        "port": target.port,
        "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}
