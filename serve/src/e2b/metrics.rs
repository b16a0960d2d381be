//! What a sandbox uses, as clients read it.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::api::Api;
use super::control::find;
use super::failure::Failure;
use super::paging::pairs;
use super::shapes::rfc3339;
use crate::sandbox::{SandboxError, State as SandboxState};
use crate::usage::Usage;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    timestamp: String,
    timestamp_unix: u64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

impl From<Usage> for Metric {
    fn from(usage: Usage) -> Self {
        Self {
            timestamp: rfc3339(usage.at),
            timestamp_unix: seconds(usage.at),
            cpu_count: usage.cpus,
            cpu_used_pct: usage.cpu_percent,
            mem_used: usage.memory.used,
            mem_total: usage.memory.total,
            mem_cache: usage.memory.cache,
            disk_used: usage.disk.used,
            disk_total: usage.disk.total,
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}

/// Measures what a sandbox uses, and returns what was measured of it between two times.
pub(super) async fn metrics(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let (mut start, mut end) = (0, u64::MAX);
    for (name, value) in pairs(&query.unwrap_or_default()) {
        let bound = match name.as_str() {
            "start" => &mut start,
            "end" => &mut end,
            _ => continue,
        };
        let bad = |_| Failure::bad_request(format!("{name} is a number of seconds since 1970"));
        *bound = value.parse().map_err(bad)?;
    }
    let sandbox = find(&api, &id)?;
    let failed = |error: &SandboxError| Failure::of(error, Some(&sandbox.id));
    if sandbox.status().state == SandboxState::Running {
        match sandbox.live().await {
            Ok(live) => {
                let measured = sandbox.usage.measure(&live.vm).await;
                measured.map_err(|error| Failure::internal(&error, "nothing can be measured"))?;
            }
            // What was measured before is all there is.
            Err(SandboxError::Paused) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    let all = sandbox.usage.all().into_iter();
    let asked = all.filter(|usage| (start..=end).contains(&seconds(usage.at)));
    let shown: Vec<Metric> = asked.map(Metric::from).collect();
    Ok(Json(shown).into_response())
}
