//! What an image says about its programs.

use std::collections::BTreeMap;

use ironclaw_store::Sha256Digest;
use serde::Deserialize;

use super::blob;
use super::error::SourceError;
use super::platform::{self, Platform};
use crate::root_origin::ImageConfig;

/// Limit of a config in bytes, and of what is kept of one.
const MAX_CONFIG: usize = 256 << 10;
/// Limit of an image's layers.
const MAX_LAYERS: usize = 1024;

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

#[cfg(any(test, feature = "fuzzing"))]
/// Parses a config of arbitrary bytes.
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok((config, layers)) = parse(bytes) {
        assert!(layers.len() <= MAX_LAYERS);
        let json = serde_json::to_vec(&config).unwrap_or_default();
        assert!(serde_json::from_slice::<ImageConfig>(&json).is_ok_and(|read| read == config));
    }
}
