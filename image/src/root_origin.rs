//! Where the root of a template came from.

use std::collections::BTreeMap;
use std::ffi::OsString;

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
    /// Returns the words of the program that runs where these are asked for, as container runtimes have
    /// it: what is asked for takes the place of the image's `Cmd`, behind its `Entrypoint`. Another
    /// entrypoint takes the place of both. Empty if neither the image nor the caller says what to run.
    #[must_use]
    pub fn argv(&self, entrypoint: Option<Vec<OsString>>, words: Vec<OsString>) -> Vec<OsString> {
        let own = |words: &[String]| -> Vec<_> { words.iter().map(OsString::from).collect() };
        let words = match &entrypoint {
            None if words.is_empty() => own(&self.cmd),
            _ => words,
        };
        let mut argv = entrypoint.unwrap_or_else(|| own(&self.entrypoint));
        argv.extend(words);
        argv
    }

    /// Returns all texts that a program may get.
    #[cfg(feature = "oci")]
    pub(crate) fn texts(&self) -> impl Iterator<Item = &String> {
        let lists = [&self.env, &self.entrypoint, &self.cmd];
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let single = [&self.user, &self.working_dir, &self.stop_signal];
        lists.into_iter().flatten().chain(labels).chain(single)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_replaces_the_command_and_another_entrypoint_both() {
        let list =
            |text: &str| -> Vec<String> { text.split_whitespace().map(Into::into).collect() };
        let config = |entrypoint: &str, cmd: &str| ImageConfig {
            entrypoint: list(entrypoint),
            cmd: list(cmd),
            ..ImageConfig::default()
        };
        let words =
            |text: &str| -> Vec<OsString> { text.split_whitespace().map(Into::into).collect() };
        let both = config("python3 -u", "app.py");
        let cases = [
            (&both, None, "", "python3 -u app.py"),
            (&both, None, "-c 1", "python3 -u -c 1"),
            (&both, Some("sh"), "", "sh"),
            (&both, Some("sh"), "-x", "sh -x"),
            (&both, Some(""), "ls /", "ls /"),
            (&config("", "bash"), None, "", "bash"),
            (&config("", "bash"), None, "ls", "ls"),
            (&config("", ""), None, "", ""),
        ];
        for (config, entrypoint, asked, expected) in cases {
            let argv = config.argv(entrypoint.map(words), words(asked));
            assert_eq!(argv, words(expected), "{entrypoint:?} {asked}");
        }
    }
}
