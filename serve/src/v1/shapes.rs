//! The JSON of sandboxes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::vmm::Machine;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{Kind, Problem};
use crate::new_sandbox::{NewSandbox, lifetime};
use crate::record::Expiry;
use crate::sandbox::{Sandbox, State};

/// Lifetime of a sandbox whose maker names none.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);

/// A request for a sandbox.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// The name of a template; `base` is the default one, unless a template has this name; so is an empty text.
    #[serde(default = "base")]
    #[schema(default = "base")]
    template: String,
    /// A name for people and lists. Several sandboxes may have one.
    name: Option<String>,
    /// What its maker wants to find it by.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    /// Variables of each of its commands.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The user that its commands run as; otherwise `user`, if the template has it, or root.
    user: Option<String>,
    /// Seconds until its deadline, a day at most. 300 by default.
    lifetime_seconds: Option<u64>,
    /// What becomes of it at its deadline.
    #[serde(default)]
    on_deadline: OnDeadline,
    /// Whether a request to its guest resumes it when it is paused.
    #[serde(default)]
    resume_on_use: bool,
    /// Limits beside the deadline.
    #[serde(default)]
    limits: Limits,
    /// Guests have no network: only null, false and "none" are taken.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    network: serde_json::Value,
}

fn base() -> String {
    "base".to_owned()
}

/// Limits of a sandbox.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Kill it after so many seconds without a request to its guest.
    idle_seconds: Option<u64>,
}

/// What becomes of a sandbox at its deadline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OnDeadline {
    /// It is killed.
    #[default]
    Kill,
    /// It is paused, and can be resumed.
    Pause,
}

impl Create {
    /// Returns what it asks for; refuses what can't be had.
    pub(super) fn accept(self) -> Result<NewSandbox, Problem> {
        let has_network = match &self.network {
            serde_json::Value::Null | serde_json::Value::Bool(false) => false,
            serde_json::Value::String(text) => text != "none",
            _ => true,
        };
        if has_network {
            return Err(Problem::new(
                Kind::Unsupported,
                "sandboxes have no network yet: \"network\" can be null, false or \"none\"",
            ));
        }
        let mut new = NewSandbox::of(self.template, lifetime(self.lifetime_seconds, LIFETIME)?);
        new.name = self.name;
        new.user = self.user;
        new.metadata = self.metadata;
        new.env = self.env;
        new.expiry = match self.on_deadline {
            OnDeadline::Kill => Expiry::Kill,
            OnDeadline::Pause => Expiry::Pause,
        };
        new.resume_on_use = self.resume_on_use;
        new.idle_limit = self.limits.idle_seconds.map(Duration::from_secs);
        Ok(new)
    }
}

/// Whether a sandbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StateName {
    /// Its guest runs.
    Running,
    /// Its memory is on disk, and its guest goes on when it is resumed.
    Paused,
}

impl From<State> for StateName {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Paused => Self::Paused,
        }
    }
}

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    /// Its id.
    #[schema(example = "iabcdefghij2345678901")]
    id: String,
    /// Its name, if its maker gave it one.
    name: Option<String>,
    /// The template that its maker asked for.
    template: String,
    /// Where that name led.
    template_hash: String,
    state: StateName,
    metadata: BTreeMap<String, String>,
    /// Who made it: the name of a key; `local` without one.
    owner: String,
    /// When it was made (RFC 3339).
    started: String,
    /// Its deadline; when it was paused, if it is.
    end: String,
    on_deadline: OnDeadline,
    resume_on_use: bool,
    vcpus: u8,
    memory_mib: u32,
    /// Most that its guest may write to its disk, if its template has one.
    disk_mib: Option<u32>,
}

impl Info {
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        let status = sandbox.status();
        let record = &sandbox.record;
        let Machine {
            vcpus,
            memory_mib,
            disk_mib,
            ..
        } = sandbox.template.pool.launcher().machine();
        Self {
            id: sandbox.id.to_string(),
            name: record.name.clone(),
            template: record.template.clone(),
            template_hash: record.template_hash.to_string(),
            state: status.state.into(),
            metadata: record.metadata.clone(),
            owner: record.owner.clone(),
            started: rfc3339(record.started),
            end: rfc3339(status.end),
            on_deadline: match record.expiry {
                Expiry::Kill => OnDeadline::Kill,
                Expiry::Pause => OnDeadline::Pause,
            },
            resume_on_use: record.resume_on_use,
            vcpus,
            memory_mib,
            disk_mib,
        }
    }
}

/// Writes a time as clients read it.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::ask::read;

    fn parse(json: &str) -> Result<NewSandbox, Problem> {
        let new = read::<Create>(json.as_bytes())?.accept()?;
        new.check().map_err(Problem::from)?;
        Ok(new)
    }

    #[test]
    fn nothing_asks_for_a_sandbox_of_the_default_template() {
        let new = parse("").unwrap();
        assert_eq!((new.template.as_str(), new.lifetime), ("base", LIFETIME));
        assert_eq!(new.expiry, Expiry::Kill);
    }

    #[test]
    fn a_network_is_refused_by_name_until_there_is_one() {
        for none in ["null", "false", r#""none""#] {
            parse(&format!(r#"{{"network":{none}}}"#)).unwrap();
        }
        for some in ["true", r#""open""#, r#"{"allow":["1.1.1.1"]}"#, "{}"] {
            let problem = parse(&format!(r#"{{"network":{some}}}"#)).unwrap_err();
            assert_eq!(problem.kind, Kind::Unsupported, "{some}");
        }
    }

    #[test]
    fn fields_that_are_not_known_and_values_out_of_range_are_refused() {
        for json in [
            r#"{"cpus":4}"#,
            r#"{"limits":{"cpus":4}}"#,
            r#"{"limits":{"idle_seconds":0}}"#,
            r#"{"lifetime_seconds":86401}"#,
            r#"{"env":{"A=B":"1"}}"#,
            r#"{"env":{"A":"\u0000"}}"#,
            r#"{"name":""}"#,
            r#"{"name":"a\nb"}"#,
            "[]",
            "{",
        ] {
            let problem = parse(json).unwrap_err();
            assert_eq!(problem.kind, Kind::Invalid, "{json}");
        }
        let long = "x".repeat(256 * 1024);
        let problem = parse(&format!(r#"{{"metadata":{{"a":"{long}"}}}}"#)).unwrap_err();
        assert_eq!(problem.kind, Kind::TooLarge);
    }
}
