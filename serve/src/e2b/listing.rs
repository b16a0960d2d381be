//! Lists sandboxes, in pages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};

use super::api::Api;
use super::failure::Failure;
use super::paging::{self, PAGE, decode, pairs};
use super::shapes::{Info, state_name, untagged};
use crate::place::Place;
use crate::sandbox::{Sandbox, State as SandboxState};

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    metadata: BTreeMap<String, String>,
    states: Vec<String>,
    template: Option<String>,
    started_after: Option<SystemTime>,
    oldest_first: bool,
    limit: Option<usize>,
    after: Option<Place>,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, Failure> {
        let mut asked = Self::default();
        for (name, value) in pairs(query) {
            match name.as_str() {
                // The SDKs encode each name and value once more.
                "metadata" => {
                    let all = pairs(&value);
                    asked.metadata = all
                        .map(|(name, value)| (decode(&name), decode(&value)))
                        .collect();
                }
                "state" => asked.states.extend(value.split(',').map(str::to_owned)),
                "template" => asked.template = Some(untagged(&value).to_owned()),
                "startedAfter" => asked.started_after = Some(time(&value)?),
                "order" => {
                    asked.oldest_first = match value.as_str() {
                        "asc" => true,
                        "desc" => false,
                        _ => return Err(Failure::bad_request("order is asc or desc")),
                    };
                }
                "limit" => asked.limit = Some(paging::limit(&value)?),
                "nextToken" => {
                    let bad = || Failure::bad_request("nextToken is not one of these lists");
                    asked.after = Some(Place::parse(&value).ok_or_else(bad)?);
                }
                _ => {}
            }
        }
        Ok(asked)
    }

    fn wants(&self, sandbox: &Sandbox) -> bool {
        let state = state_name(sandbox.status().state);
        let is_state = self.states.is_empty() || self.states.iter().any(|asked| asked == state);
        is_state
            && self
                .metadata
                .iter()
                .all(|(name, value)| sandbox.record.metadata.get(name) == Some(value))
            && self
                .template
                .as_ref()
                .is_none_or(|name| sandbox.record.template == *name)
            && self
                .started_after
                .is_none_or(|time| sandbox.record.started >= time)
            && self.after.as_ref().is_none_or(|after| {
                let place = Place::of(sandbox);
                match self.oldest_first {
                    true => place > *after,
                    false => place < *after,
                }
            })
    }
}

/// Reads a time, in UTC.
fn time(text: &str) -> Result<SystemTime, Failure> {
    // A `+` of a query is a space where it is not encoded.
    let utc = text.trim_end_matches("+00:00").trim_end_matches(" 00:00");
    let time = humantime::parse_rfc3339_weak(utc.trim_end_matches('Z'));
    time.map_err(|_| Failure::bad_request(format!("{text:?} is no time of RFC 3339 in UTC")))
}

pub(super) async fn list(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    page(&api, &Asked::parse(&query.unwrap_or_default())?)
}

/// Lists what runs, as the first version of the API does.
pub(super) async fn running(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let mut asked = Asked::parse(&query.unwrap_or_default())?;
    asked.states = vec![state_name(SandboxState::Running).to_owned()];
    page(&api, &asked)
}

fn page(api: &Api, asked: &Asked) -> Result<Response, Failure> {
    let mut found: Vec<Arc<Sandbox>> = api.0.sandboxes.list();
    found.retain(|sandbox| asked.wants(sandbox));
    if asked.oldest_first {
        found.reverse();
    }
    let limit = asked.limit.unwrap_or(PAGE);
    let more = found.len() > limit;
    found.truncate(limit);
    let page: Vec<_> = found.iter().map(|sandbox| Info::of(sandbox)).collect();
    let mut response = Json(page).into_response();
    if let (true, Some(last)) = (more, found.last()) {
        paging::next(&mut response, &Place::of(last).token());
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn filters_are_read_from_the_query() {
        let asked =
            Asked::parse("metadata=user%3Da%252520b%26x%3Dy&state=running&state=paused&limit=2");
        let asked = asked.unwrap();
        let metadata = [("user", "a b"), ("x", "y")];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(asked.metadata, BTreeMap::from(metadata));
        assert_eq!(asked.states, ["running", "paused"]);
        assert_eq!(asked.limit, Some(2));
        let asked =
            Asked::parse("order=asc&template=x:default&startedAfter=1970-01-01T00:00:01%2B00:00");
        let asked = asked.unwrap();
        assert!(asked.oldest_first);
        assert_eq!(asked.template.as_deref(), Some("x"));
        let second = UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(asked.started_after, Some(second));
        for time in ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:01"] {
            assert_eq!(super::time(time).unwrap(), second);
        }
        assert!(super::time("1970-01-01T00:00:01+02:00").is_err());
        assert!(Asked::parse("order=up").is_err());
        assert!(Asked::parse("limit=0").is_err() && Asked::parse("limit=101").is_err());
        assert!(Asked::parse("nextToken=x").is_err());
    }
}
