//! Raw connections to the ports of a sandbox.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::api::Api;
use super::ask::Named;
use super::problem::{Kind, Problem};
use crate::peer::Connection;
use crate::ports::PortError;

/// The protocol that a connection becomes.
const TCP: &str = "tcp";

/// Connects with a port of a sandbox, where a program of its listens.
///
/// The request has `Connection: upgrade` and `Upgrade: tcp`; behind the answer the connection is one with the
/// program, in both directions, until both sides have ended theirs or either is gone. 64 connections to a sandbox
/// may be open; more wait for ten seconds, and are refused then.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/ports/{port}", tag = "ports",
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("port" = u16, Path, description = "The port", minimum = 1),
    ),
    responses(
        (status = 101, description = "The connection is open."),
        Problem,
    )
)]
pub(super) async fn connect(
    State(api): State<Api>,
    Named((id, port)): Named<(String, u16)>,
    connection: Option<axum::Extension<Connection>>,
    mut request: Request,
) -> Result<Response, Problem> {
    if port == 0 {
        return Err(Problem::invalid("no program listens on port 0"));
    }
    if !asks_for_tcp(request.headers()) {
        return Err(Problem::invalid(
            "the request has no Connection: upgrade and Upgrade: tcp",
        ));
    }
    let (_, live) = api.live(&id).await?;
    let connected = live.ports.connect(&live.vm, port).await;
    let (mut program, room) = connected.map_err(|error| match error {
        PortError::NotOpen => Problem::new(
            Kind::PortClosed,
            format!("no program listens on port {port}"),
        ),
        PortError::Guest(error) => error.into(),
        busy => Problem::new(Kind::NoRoom, busy.to_string()),
    })?;
    let asker = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // They count as long as they are there.
        let (_connection, _room) = (connection, room);
        if let Ok(asker) = asker.await {
            // Either side may leave at any time.
            let _ = copy_bidirectional(&mut TokioIo::new(asker), &mut program).await;
        }
    });
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(TCP));
    Ok(answer)
}

/// Returns whether a request asks for a raw connection.
fn asks_for_tcp(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let values = headers.get_all(name).iter();
        let mut words = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        words.any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, TCP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_connection_is_asked_for_in_two_headers() {
        let asks = |connection: &'static str, upgrade: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            asks_for_tcp(&headers)
        };
        assert!(asks("keep-alive, Upgrade", "TCP"));
        assert!(!asks("keep-alive", "tcp") && !asks("upgrade", "websocket"));
        assert!(!asks_for_tcp(&HeaderMap::new()));
    }
}
