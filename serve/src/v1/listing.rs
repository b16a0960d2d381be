//! Lists sandboxes, in pages.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::Asked;
use super::problem::Problem;
use super::shapes::{Info, StateName};
use crate::place::Place;
use crate::sandbox::Sandbox;

/// Sandboxes on a page, by default.
const PAGE: usize = 100;

/// Sandboxes on a page, at most.
const MAX_PAGE: usize = 1000;

/// Which sandboxes are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only those in this state.
    state: Option<StateName>,
    /// Only those of this template.
    template: Option<String>,
    /// Only those with this name.
    name: Option<String>,
    /// Only those with this metadata: pairs `NAME=VALUE` with commas between them.
    metadata: Option<String>,
    /// Sandboxes on a page: 1 to 1000, 100 by default.
    limit: Option<usize>,
    /// Where the page begins: the `next` of the one before.
    after: Option<String>,
}

/// A page of the list, the newest sandbox first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    sandboxes: Vec<Info>,
    /// Where the next page begins; nothing on the last one.
    next: Option<String>,
}

impl Filter {
    fn metadata(&self) -> Result<BTreeMap<&str, &str>, Problem> {
        let Some(text) = &self.metadata else {
            return Ok(BTreeMap::new());
        };
        let bad = || Problem::invalid("metadata has pairs NAME=VALUE, with commas between them");
        text.split(',')
            .map(|pair| pair.split_once('=').ok_or_else(bad))
            .collect()
    }

    fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(PAGE);
        let bad = || Problem::invalid(format!("limit is a number from 1 to {MAX_PAGE}"));
        (1..=MAX_PAGE)
            .contains(&limit)
            .then_some(limit)
            .ok_or_else(bad)
    }

    fn after(&self) -> Result<Option<Place>, Problem> {
        let bad = || Problem::invalid("after is not the `next` of a page");
        let parse = |text: &String| Place::parse(text).ok_or_else(bad);
        self.after.as_ref().map(parse).transpose()
    }

    fn fits(&self, sandbox: &Sandbox) -> bool {
        let record = &sandbox.record;
        let is =
            |asked: &Option<String>, has: Option<&str>| asked.is_none() || asked.as_deref() == has;
        is(&self.template, Some(&record.template))
            && is(&self.name, record.name.as_deref())
            && self
                .state
                .is_none_or(|state| state == sandbox.status().state.into())
    }
}

/// Lists sandboxes.
#[utoipa::path(
    get, path = "/v1/sandboxes", tag = "sandboxes",
    params(Filter),
    responses(
        (status = 200, body = Page),
        Problem,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Asked(filter): Asked<Filter>,
) -> Result<Json<Page>, Problem> {
    let (metadata, limit, after) = (filter.metadata()?, filter.limit()?, filter.after()?);
    let mut found = api.sandboxes().list();
    found.retain(|sandbox| {
        let has = |(name, value): (&&str, &&str)| {
            let known = sandbox.record.metadata.get(*name);
            known.map(String::as_str) == Some(*value)
        };
        filter.fits(sandbox)
            && metadata.iter().all(has)
            && after
                .as_ref()
                .is_none_or(|after| Place::of(sandbox) < *after)
    });
    let is_last = found.len() <= limit;
    found.truncate(limit);
    let next = match found.last() {
        Some(last) if !is_last => Some(Place::of(last).token()),
        _ => None,
    };
    let sandboxes = found.iter().map(|sandbox| Info::of(sandbox)).collect();
    Ok(Json(Page { sandboxes, next }))
}
