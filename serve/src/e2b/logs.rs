//! What the commands of a sandbox printed, as E2B's clients read it: entries with a time, a level and fields.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::api::Api;
use super::control::find;
use super::failure::Failure;
use super::paging::pairs;
use super::shapes::rfc3339;
use crate::log::{Happened, Record};

/// Entries of an answer at most, and where a client names no limit.
const MAX_ENTRIES: usize = 1000;

/// Limit of a text that is looked for, in characters.
const MAX_SEARCH: usize = 256;

/// How much an entry matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Entry {
    timestamp: String,
    level: Level,
    message: String,
    fields: BTreeMap<&'static str, String>,
}

/// The entries that are asked for.
#[derive(Debug, PartialEq)]
struct Asked {
    /// The first time in milliseconds since 1970, or the last one if it goes backward.
    cursor: Option<u64>,
    limit: usize,
    is_backward: bool,
    level: Level,
    search: String,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, Failure> {
        let mut asked = Self {
            cursor: None,
            limit: MAX_ENTRIES,
            is_backward: false,
            level: Level::Debug,
            search: String::new(),
        };
        let bad = |text: &str| Failure::bad_request(text);
        for (name, value) in pairs(query) {
            match name.as_str() {
                "cursor" | "start" => {
                    let time = value.parse();
                    let bad = |_| bad(&format!("{name} is a number of milliseconds since 1970"));
                    asked.cursor = Some(time.map_err(bad)?);
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| *limit <= MAX_ENTRIES);
                    let bad = || bad(&format!("limit is a number from 0 to {MAX_ENTRIES}"));
                    asked.limit = limit.ok_or_else(bad)?;
                }
                "direction" => {
                    asked.is_backward = match value.as_str() {
                        "forward" => false,
                        "backward" => true,
                        _ => return Err(bad("direction is forward or backward")),
                    }
                }
                "level" => {
                    asked.level = match value.as_str() {
                        "debug" => Level::Debug,
                        "info" => Level::Info,
                        "warn" => Level::Warn,
                        "error" => Level::Error,
                        _ => return Err(bad("level is debug, info, warn or error")),
                    }
                }
                "search" if value.chars().count() > MAX_SEARCH => {
                    let text = format!("search has {MAX_SEARCH} characters at most");
                    return Err(bad(&text));
                }
                "search" => asked.search = value,
                _ => {}
            }
        }
        Ok(asked)
    }

    fn wants(&self, record: &Record, entry: &Entry) -> bool {
        let at = millis(record.at);
        let is_in_time = self.cursor.is_none_or(|cursor| match self.is_backward {
            true => at <= cursor,
            false => at >= cursor,
        });
        is_in_time && entry.level >= self.level && entry.message.contains(&self.search)
    }

    /// Chooses among all records, of which the oldest one is the first.
    fn choose(&self, mut records: Vec<Record>) -> Vec<Entry> {
        if self.is_backward {
            records.reverse();
        }
        let entries = records.iter().map(|record| (record, Entry::of(record)));
        let wanted = entries.filter(|(record, entry)| self.wants(record, entry));
        wanted.map(|(_, entry)| entry).take(self.limit).collect()
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Entry {
    fn of(record: &Record) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (event, level, message) = match &record.happened {
            Happened::Start(argv) => ("start", Level::Info, argv.join(" ")),
            Happened::Stdout(bytes) => ("stdout", Level::Info, text(bytes)),
            Happened::Stderr(bytes) => ("stderr", Level::Warn, text(bytes)),
            Happened::End(status) => match status.code() {
                Some(0) => ("end", Level::Info, status.to_string()),
                _ => ("end", Level::Warn, status.to_string()),
            },
            Happened::Lost => {
                let text = "the command is not followed any more".to_owned();
                ("lost", Level::Warn, text)
            }
        };
        let mut fields = BTreeMap::from([("event", event.to_owned())]);
        fields.extend(record.pid.map(|pid| ("pid", pid.to_string())));
        Self {
            timestamp: rfc3339(record.at),
            level,
            message,
            fields,
        }
    }

    /// Writes it as a line of the first version of the API: the JSON of its level, message and fields.
    fn line(&self) -> String {
        let mut line = json!({ "level": self.level, "message": self.message, "logger": "process" });
        for (name, value) in &self.fields {
            line[*name] = json!(value);
        }
        line.to_string()
    }
}

async fn read(api: &Api, id: &str, query: Option<String>) -> Result<Vec<Entry>, Failure> {
    let asked = Asked::parse(&query.unwrap_or_default())?;
    let sandbox = find(api, id)?;
    if let Ok(live) = sandbox.live().await {
        // Finds those that go on since it was resumed.
        let found = live.processes.list(&live.vm).await;
        found.map_err(|error| Failure::internal(&error, "the commands can't be looked up"))?;
    }
    Ok(asked.choose(sandbox.log.settled()))
}

/// Reads the log of a sandbox; resumes none.
pub(super) async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let entries = read(&api, &id, query).await?;
    Ok(Json(json!({ "logs": entries })).into_response())
}

/// The same, in the first version of the API.
pub(super) async fn logs_v1(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let entries = read(&api, &id, query).await?;
    let lines = entries
        .iter()
        .map(|entry| json!({ "timestamp": entry.timestamp, "line": entry.line() }));
    let lines: Vec<_> = lines.collect();
    Ok(Json(json!({ "logs": lines, "logEntries": entries })).into_response())
}

#[cfg(test)]
mod tests {
    use ironclaw_orchestrator::vm::ExitStatus;

    use super::*;
    use crate::log::Log;

    fn asked(query: &str) -> Asked {
        Asked::parse(query).unwrap()
    }

    fn records() -> Vec<Record> {
        let log = Log::default();
        log.add(
            Some(7),
            Happened::start(&["make".to_owned(), "all".to_owned()]),
        );
        log.add(Some(7), Happened::Stdout("one\n".into()));
        log.add(Some(7), Happened::Stderr("two\n".into()));
        log.add(Some(7), Happened::End(ExitStatus::Code(2)));
        log.settled()
    }

    fn messages(query: &str) -> Vec<String> {
        let entries = asked(query).choose(records());
        entries.into_iter().map(|entry| entry.message).collect()
    }

    #[test]
    fn entries_are_chosen_by_direction_limit_level_and_text() {
        let all = messages("");
        assert_eq!(all[..3], ["make all", "one\n", "two\n"]);
        assert_eq!(messages("limit=2"), all[..2]);
        assert!(messages("limit=0").is_empty());
        let last = messages("direction=backward&limit=2");
        assert_eq!(last, [all[3].clone(), all[2].clone()]);
        assert_eq!(messages("level=warn"), all[2..]);
        assert_eq!(messages("search=e%0A"), ["one\n"]);
    }

    #[test]
    fn a_cursor_is_the_first_time_or_backward_the_last_one() {
        let records = records();
        let first = millis(records[0].at);
        let count = |query: String| asked(&query).choose(records.clone()).len();
        assert_eq!(count(format!("cursor={first}")), 4);
        assert_eq!(count(format!("start={}", first + 60_000)), 0);
        assert_eq!(count(format!("direction=backward&cursor={}", first - 1)), 0);
        assert_eq!(
            count(format!("direction=backward&cursor={}", first + 60_000)),
            4
        );
    }

    #[test]
    fn what_is_no_query_of_logs_is_refused() {
        let long = "x".repeat(MAX_SEARCH + 1);
        for query in [
            "cursor=-1",
            "limit=1001",
            "direction=up",
            "level=loud",
            &format!("search={long}"),
        ] {
            assert!(Asked::parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_line_is_json_with_the_level_that_a_client_filters_by() {
        let entries = asked("level=warn").choose(records());
        let line: serde_json::Value = serde_json::from_str(&entries[0].line()).unwrap();
        let expected = json!({
            "level": "warn", "message": "two\n", "logger": "process", "event": "stderr", "pid": "7",
        });
        assert_eq!(line, expected);
    }
}
