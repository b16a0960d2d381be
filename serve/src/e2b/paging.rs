//! Lists in pages: the query that asks for one, and the token of the next.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::failure::Failure;

/// Entries on a page, at most and by default.
pub(super) const PAGE: usize = 100;

/// The header that has the place where the next page begins.
const NEXT: HeaderName = HeaderName::from_static("x-next-token");

/// Reads `name=value` pairs that are percent-encoded.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
}

pub(super) fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced)
        .decode_utf8_lossy()
        .into_owned()
}

/// Reads the number of entries that a page may have.
pub(super) fn limit(value: &str) -> Result<usize, Failure> {
    let limit = value.parse().ok();
    let limit = limit.filter(|limit| (1..=PAGE).contains(limit));
    limit.ok_or_else(|| Failure::bad_request(format!("limit is a number from 1 to {PAGE}")))
}

/// Tells where the next page begins.
pub(super) fn next(response: &mut Response, token: &str) {
    if let Ok(token) = HeaderValue::try_from(token) {
        response.headers_mut().insert(NEXT, token);
    }
}
