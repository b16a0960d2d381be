//! Where the root of a template came from.

use std::collections::BTreeMap;

use ironclaw_store::Sha256Digest;
use serde::{Deserialize, Serialize};

/// The source of a root, and what it says about the programs in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RootOrigin {
    /// The source, as it was given: `oci:DIR:REF`.
    pub source: String,
    /// The digest of the image's manifest, if it was an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256Digest>,
    /// The digests of its layers, unpacked, from the lowest on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Sha256Digest>,
    /// The steps that changed what the source has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// The image's defaults.
    #[serde(default)]
    pub config: ImageConfig,
}

impl RootOrigin {
    /// The digest of what makes a template another one, beside the files: the image's defaults.
    pub(crate) fn config_digest(&self) -> Sha256Digest {
        // Such texts and maps are always JSON.
        Sha256Digest::of(serde_json::to_vec(&self.config).unwrap_or_default())
    }
}

/// The defaults of an image for the commands that run in it; nothing is said by what is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ImageConfig {
    /// The environment, as `NAME=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The user and perhaps a group, by names or numbers: `user`, `uid:gid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// What precedes the arguments of a command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, or its arguments, if none is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The signal that asks the command to end: `SIGTERM`, `15`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The processor that it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub architecture: String,
}

impl ImageConfig {
    /// Returns all texts that a program may get.
    #[cfg(feature = "oci")]
    pub(crate) fn texts(&self) -> impl Iterator<Item = &String> {
        let lists = [&self.env, &self.entrypoint, &self.cmd];
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let single = [&self.user, &self.working_dir, &self.stop_signal];
        lists.into_iter().flatten().chain(labels).chain(single)
    }
}
