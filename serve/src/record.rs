//! What is known of a sandbox from its first day to its last, whether it runs or is paused.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::template::TemplateHash;
use serde::{Deserialize, Serialize};

use crate::port_access::PortAccess;
use crate::secret::Secret;

/// What becomes of a sandbox at its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// It is killed.
    Kill,
    /// It is paused, and can be resumed.
    Pause,
}

/// What is kept of a sandbox that is paused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The name that its maker asked for.
    pub(crate) template: String,
    /// Where that led.
    pub(crate) template_hash: TemplateHash,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) expiry: Expiry,
    pub(crate) resume_on_use: bool,
    /// Who made it: the name of a key.
    pub(crate) owner: String,
    pub(crate) started: SystemTime,
    #[serde(default)]
    pub(crate) idempotency_key: Option<String>,
    #[serde(default)]
    pub(crate) ports: PortAccess,
    #[serde(with = "secret_text")]
    pub(crate) token: Secret,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) idle_limit: Option<Duration>,
    #[serde(default)]
    pub(crate) request_hash: Option<String>,
}

mod secret_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::secret::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.reveal())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::known)
    }
}
