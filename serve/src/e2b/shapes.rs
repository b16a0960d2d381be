//! The JSON of the control plane.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::vmm::Machine;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{CLIENT, ENVD_VERSION};
use super::failure::Failure;
use super::network::{Network, asks_for_something};
use crate::new_sandbox::NewSandbox;
pub(super) use crate::new_sandbox::lifetime;
use crate::record::Expiry;
use crate::sandbox::{Sandbox, State};
use crate::secret::Secret;

/// What E2B adds to the names of templates and snapshots, and its clients with them.
const TAG: &str = ":default";

/// Returns a name without the tag that each has.
pub(super) fn untagged(name: &str) -> &str {
    name.strip_suffix(TAG).unwrap_or(name)
}

/// A request for a sandbox; fields that are not here change nothing that is unsafe.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Create {
    #[serde(rename = "templateID")]
    template: String,
    timeout: Option<u64>,
    metadata: Option<BTreeMap<String, String>>,
    env_vars: Option<BTreeMap<String, String>>,
    auto_pause: Option<bool>,
    auto_pause_memory: Option<bool>,
    auto_resume: Option<AutoResume>,
    /// Guests have no network, so that this holds whatever it says.
    #[serde(rename = "allow_internet_access")]
    _allow_internet_access: Option<bool>,
    network: Option<Network>,
    mcp: Option<Value>,
    iam: Option<Value>,
    volume_mounts: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct AutoResume {
    enabled: bool,
}

impl Create {
    /// Returns what it asks for; refuses what can't be had.
    pub(super) fn accept(self, default_lifetime: Duration) -> Result<NewSandbox, Failure> {
        let refused = [
            ("mcp", &self.mcp),
            ("iam", &self.iam),
            ("volumeMounts", &self.volume_mounts),
        ];
        for (name, value) in refused {
            if value.as_ref().is_some_and(asks_for_something) {
                return Err(Failure::refused(name));
            }
        }
        let network = self.network.unwrap_or_default().accept()?;
        let pauses = self.auto_pause.unwrap_or(false);
        if pauses && self.auto_pause_memory == Some(false) {
            return Err(Failure::bad_request(
                "a sandbox is paused with its memory: \"autoPauseMemory\" can't be false",
            ));
        }
        let metadata = self.metadata.unwrap_or_default();
        let env = self.env_vars.unwrap_or_default();
        let mut new = NewSandbox::of(
            untagged(&self.template),
            lifetime(self.timeout, default_lifetime)?,
        );
        new.expiry = match pauses {
            true => Expiry::Pause,
            false => Expiry::Kill,
        };
        new.resume_on_use = self.auto_resume.is_some_and(|resume| resume.enabled);
        new.metadata = metadata;
        new.env = env;
        new.private_ports = network.is_private;
        new.told_host = network.host;
        Ok(new)
    }
}

/// A sandbox as its maker gets it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created<'a> {
    #[serde(rename = "templateID")]
    template: &'a str,
    alias: &'a str,
    #[serde(rename = "sandboxID")]
    id: &'a str,
    #[serde(rename = "clientID")]
    client: &'a str,
    envd_version: &'a str,
    envd_access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_access_token: Option<&'a str>,
}

impl<'a> Created<'a> {
    pub(super) fn of(sandbox: &'a Sandbox) -> Self {
        Self {
            template: &sandbox.record.template,
            alias: &sandbox.record.template,
            id: sandbox.id.as_str(),
            client: CLIENT,
            envd_version: ENVD_VERSION,
            envd_access_token: sandbox.record.token.reveal(),
            traffic_access_token: sandbox.record.ports.token.as_ref().map(Secret::reveal),
        }
    }
}

/// A sandbox in a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Info<'a> {
    #[serde(rename = "templateID")]
    template: &'a str,
    alias: &'a str,
    #[serde(rename = "sandboxID")]
    id: &'a str,
    #[serde(rename = "clientID")]
    client: &'a str,
    started_at: String,
    end_at: String,
    cpu_count: u8,
    #[serde(rename = "memoryMB")]
    memory_mib: u32,
    #[serde(rename = "diskSizeMB")]
    disk_mib: u32,
    state: &'static str,
    envd_version: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> Info<'a> {
    pub(super) fn of(sandbox: &'a Sandbox) -> Self {
        let status = sandbox.status();
        let Machine {
            vcpus,
            memory_mib,
            disk_mib,
            ..
        } = sandbox.template.pool.launcher().machine();
        Self {
            template: &sandbox.record.template,
            alias: &sandbox.record.template,
            id: sandbox.id.as_str(),
            client: CLIENT,
            started_at: rfc3339(sandbox.record.started),
            end_at: rfc3339(status.end),
            cpu_count: vcpus,
            memory_mib,
            disk_mib: disk_mib.unwrap_or_default(),
            state: state_name(status.state),
            envd_version: ENVD_VERSION,
            metadata: &sandbox.record.metadata,
        }
    }
}

/// A sandbox that is looked at by itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail<'a> {
    #[serde(flatten)]
    info: Info<'a>,
    /// SDKs before 2 connect to a sandbox by this.
    envd_access_token: &'a str,
    lifecycle: Lifecycle,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: &'static str,
}

impl<'a> Detail<'a> {
    pub(super) fn of(sandbox: &'a Sandbox) -> Self {
        Self {
            info: Info::of(sandbox),
            envd_access_token: sandbox.record.token.reveal(),
            lifecycle: Lifecycle {
                auto_resume: sandbox.record.resume_on_use,
                on_timeout: match sandbox.record.expiry {
                    Expiry::Kill => "kill",
                    Expiry::Pause => "pause",
                },
            },
        }
    }
}

pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Paused => "paused",
    }
}

/// Writes a time as clients read it.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<NewSandbox, Failure> {
        let create: Create = serde_json::from_str(json).unwrap();
        create.accept(Duration::from_secs(300))
    }

    #[test]
    fn what_the_sdk_sends_by_default_is_accepted() {
        let new = parse(
            r#"{"templateID":"base","timeout":60,"metadata":{"a":"b"},"envVars":{"X":"1"},
                "allow_internet_access":true,"autoPause":false,"network":{},"volumeMounts":[]}"#,
        )
        .unwrap();
        assert_eq!(
            (new.template.as_str(), new.lifetime),
            ("base", Duration::from_secs(60))
        );
        assert_eq!((new.expiry, new.resume_on_use), (Expiry::Kill, false));
        assert_eq!(
            parse(r#"{"templateID":"x"}"#).unwrap().lifetime,
            Duration::from_secs(300)
        );
    }

    #[test]
    fn what_would_change_what_a_sandbox_may_do_is_refused_by_name() {
        for (field, value) in [
            ("network", r#"{"allowOut":["1.1.1.1"]}"#),
            ("mcp", r#"{"server":{"key":"x"}}"#),
            ("iam", r#"{"tokens":{"a":"b"}}"#),
            ("volumeMounts", r#"[{"name":"v","path":"/v"}]"#),
        ] {
            let json = format!(r#"{{"templateID":"base","{field}":{value}}}"#);
            let failure = parse(&json).unwrap_err();
            assert!(failure.message.contains(field), "{}", failure.message);
        }
    }

    #[test]
    fn a_time_is_in_utc_with_a_z() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}
