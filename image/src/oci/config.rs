//! What an image says about its programs.

use std::collections::BTreeMap;

use ironclaw_store::Sha256Digest;
use serde::{Deserialize, Serialize};

use super::blob;
use super::error::SourceError;
use super::platform::{self, Platform};

/// Limit of a config in bytes, and of what is kept of one.
const MAX_CONFIG: usize = 256 << 10;
/// Limit of an image's layers.
const MAX_LAYERS: usize = 1024;

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

/// A config as it is in an image. Unknown fields are none of our business.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(flatten)]
    platform: Platform,
    config: Option<Defaults>,
    rootfs: Layers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Defaults {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Layers {
    diff_ids: Vec<String>,
}

/// Parses a config; returns it with the digests of the unpacked layers, the lowest first.
pub(super) fn parse(bytes: &[u8]) -> Result<(ImageConfig, Vec<Sha256Digest>), SourceError> {
    let bad = |reason: String| SourceError::Document {
        what: "config",
        reason: ironclaw_host::untrusted::message(&reason),
    };
    if bytes.len() > MAX_CONFIG {
        return Err(bad(format!("it has more than {MAX_CONFIG} bytes")));
    }
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if !document.platform.is_ours() {
        return Err(platform::none_of([&document.platform]));
    }
    let defaults = document.config.unwrap_or_default();
    let config = ImageConfig {
        env: defaults.env.unwrap_or_default(),
        user: defaults.user.unwrap_or_default(),
        working_dir: defaults.working_dir.unwrap_or_default(),
        entrypoint: defaults.entrypoint.unwrap_or_default(),
        cmd: defaults.cmd.unwrap_or_default(),
        stop_signal: defaults.stop_signal.unwrap_or_default(),
        labels: defaults.labels.unwrap_or_default(),
        architecture: document.platform.architecture,
    };
    if config.texts().any(|text| text.contains('\0')) {
        return Err(bad(
            "a text in it holds a NUL, which no program can get".to_owned()
        ));
    }
    if let Some(variable) = config.env.iter().find(|it| it.find('=').unwrap_or(0) == 0) {
        return Err(bad(format!(
            "{variable:?} in its environment is no NAME=VALUE"
        )));
    }
    let ids = document.rootfs.diff_ids;
    if ids.len() > MAX_LAYERS {
        return Err(bad(format!("it has more than {MAX_LAYERS} layers")));
    }
    let ids = ids.iter().map(|id| blob::digest(id));
    Ok((config, ids.collect::<Result<_, _>>()?))
}

impl ImageConfig {
    fn texts(&self) -> impl Iterator<Item = &String> {
        let lists = [&self.env, &self.entrypoint, &self.cmd];
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let single = [&self.user, &self.working_dir, &self.stop_signal];
        lists.into_iter().flatten().chain(labels).chain(single)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses a config of arbitrary bytes.
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok((config, layers)) = parse(bytes) {
        assert!(layers.len() <= MAX_LAYERS);
        let json = serde_json::to_vec(&config).unwrap_or_default();
        assert!(serde_json::from_slice::<ImageConfig>(&json).is_ok_and(|read| read == config));
    }
}
