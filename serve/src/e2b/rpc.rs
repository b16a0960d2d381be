//! RPCs of the Connect protocol with JSON: what all of them have in common.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::access::Entered;
use super::api::MAX_BODY;
use super::failure::RpcFailure;
use crate::accounts;
use crate::templates::account;
use crate::whole_body;

/// The header with the time that a call may take, in milliseconds.
const TIMEOUT: &str = "connect-timeout-ms";

/// The content of a stream of messages.
pub(super) const STREAM: &str = "application/connect+json";

/// The content of a call with one message and one answer.
pub(super) const UNARY: &str = "application/json";

/// The header with the seconds of silence after which a client wants to hear something.
const PING: &str = "keepalive-ping-interval";

/// The same, if a client says nothing: proxies give up after a minute.
const PING_SECONDS: u64 = 50;

/// Returns what ticks when a client has to hear something, whatever happened.
pub(super) fn ping(headers: &HeaderMap) -> Interval {
    let seconds = headers
        .get(PING)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let every = Duration::from_secs(seconds.unwrap_or(PING_SECONDS).clamp(1, PING_SECONDS));
    let mut ping = interval_at(Instant::now() + every, every);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping
}

/// Answers with a stream of messages.
pub(super) fn stream(messages: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, STREAM)], messages.into()).into_response()
}

/// Takes all of a request.
pub(super) async fn whole(body: Body) -> Result<Bytes, RpcFailure> {
    let whole = whole_body::read(body, MAX_BODY).await;
    whole.map_err(|error| RpcFailure::invalid(error.to_string()))
}

/// The failure of a request that does not come as a whole.
pub(super) fn unreadable(error: axum::Error) -> RpcFailure {
    RpcFailure::invalid(format!("the request can't be read: {error}"))
}

/// Returns the time that a call may take; `None`: any.
pub(super) fn time_limit(headers: &HeaderMap) -> Result<Option<Duration>, RpcFailure> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let bad = || RpcFailure::invalid("connect-timeout-ms is not a number of milliseconds");
    let millis: u64 = value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(bad)?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// Refuses a body that is no JSON of the kind expected, or is compressed.
pub(super) fn check_content(headers: &HeaderMap, expected: &str) -> Result<(), RpcFailure> {
    let content = headers.get(header::CONTENT_TYPE);
    let content = content
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = content.split(';').next().unwrap_or_default().trim();
    if kind != expected {
        return Err(RpcFailure::invalid(format!(
            "the content type is {kind:?}, and should be {expected:?}"
        )));
    }
    for name in ["content-encoding", "connect-content-encoding"] {
        let encoding = headers.get(name).and_then(|value| value.to_str().ok());
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(RpcFailure::invalid("compressed messages are not taken"));
        }
    }
    Ok(())
}

/// Reads a message.
pub(super) fn read<T: DeserializeOwned>(message: &Bytes) -> Result<T, RpcFailure> {
    let message = match message.trim_ascii() {
        [] => b"{}".as_slice(),
        message => message,
    };
    serde_json::from_slice(message).map_err(|error| {
        RpcFailure::invalid(format!("the message is not the JSON expected: {error}"))
    })
}

/// Reads a number that JSON has as a number, or as a text as for 64 bits.
pub(super) fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// Returns the absolute path that a client means.
pub(super) async fn path(entered: &Entered, user: &str, path: &str) -> Result<String, RpcFailure> {
    if path.contains('\0') {
        return Err(RpcFailure::invalid("a path has no NUL"));
    }
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let Some(account) = account(&entered.live.vm, user).await? else {
        return Err(RpcFailure::invalid(format!("there is no user {user:?}")));
    };
    Ok(accounts::resolve(&account.home, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let name = header::HeaderName::from_static(name);
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_time_limit_of_nothing_is_none() {
        let of = |value| time_limit(&headers(TIMEOUT, value));
        assert_eq!(of("1500").unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(of("0").unwrap(), None);
        assert!(of("soon").is_err());
        assert_eq!(time_limit(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn other_content_is_refused() {
        let json = headers("content-type", "application/json; charset=utf-8");
        check_content(&json, "application/json").unwrap();
        assert!(check_content(&json, STREAM).is_err());
        let mut compressed = json;
        compressed.insert("content-encoding", "gzip".parse().unwrap());
        assert!(check_content(&compressed, "application/json").is_err());
    }
}
