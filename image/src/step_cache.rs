//! What programs of steps have changed, by what they were run on: a step that was run before is not
//! run again.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ironclaw_host::regular_file;
use ironclaw_store::{
    Artefact, DirLock, Pin, Sha256Digest, Store, StoreError, StoreName, file as durable,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const MANIFEST: &str = "step.json";
const MAX_MANIFEST: u64 = 4096;

/// The digest of a step and of what it is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StepKey(Sha256Digest);

impl StepKey {
    /// The key of what has these parts.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(*part);
        }
        Self(Sha256Digest::of(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Artefact for StepKey {
    const STORE: StoreName = StoreName {
        what: "step",
        setting: "`template_path`",
    };
    const MANIFEST: &'static str = MANIFEST;
    const NAME_FIELD: &'static str = "key";

    fn parse(directory: &str) -> Option<Self> {
        directory.parse().ok().map(Self)
    }

    fn in_manifest(&self) -> String {
        self.to_string()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    key: Sha256Digest,
    /// The layer with what the step changed.
    layer: Sha256Digest,
}

/// The results of steps.
///
/// ```text
/// <root>/<key>/step.json    its key, and the digest of the layer
/// ```
#[derive(Debug, Clone)]
pub(crate) struct StepCache(Store<StepKey>);

impl StepCache {
    /// Opens the cache in `root`, which is created with mode 0700 if it does not exist.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        Store::open(root).map(Self)
    }

    /// Returns the layer that a step made.
    pub(crate) fn get(&self, key: StepKey) -> Result<Option<Sha256Digest>, StoreError> {
        let Pin::Held(_pin) = self.0.pin(key)? else {
            return Ok(None);
        };
        let path = key.directory(self.0.root()).join(MANIFEST);
        let layer = read(&path).filter(|it| it.key == key.0).map(|it| it.layer);
        if layer.is_some() {
            // Used: its age counts from now on. Without that it is only run again earlier.
            let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            if let Err(error) = touched {
                tracing::debug!(%error, "a step's last use is not noted");
            }
        }
        Ok(layer)
    }

    /// Notes the layer that a step made.
    pub(crate) fn put(&self, key: StepKey, layer: Sha256Digest) -> Result<(), StoreError> {
        let staging = {
            let root = self.0.lock()?;
            self.0.stage(&root, &Uuid::now_v7().simple().to_string())?
        };
        let path = staging.path().join(MANIFEST);
        let manifest = Manifest { key: key.0, layer };
        let json = serde_json::to_vec(&manifest).map_err(std::io::Error::from);
        let written = json.and_then(|json| durable::write_new(&path, &json));
        written.map_err(|error| self.0.io("write", &path, error))?;
        // One whose layer is gone, or is of another run.
        self.0.delete(key, |_| Ok::<_, StoreError>(true))?;
        match staging.publish(key) {
            Ok(_) => Ok(()),
            // Another process brought it meanwhile.
            Err(StoreError::Io { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the steps whose layer is not in `used` and that were not used for so long, and what
    /// killed processes left. Returns the layers of those that stay.
    pub(crate) fn sweep(
        &self,
        used: &BTreeSet<Sha256Digest>,
        unused_for: Duration,
    ) -> Result<BTreeSet<Sha256Digest>, StoreError> {
        self.0.sweep(|_, _: &DirLock| Ok::<_, StoreError>(None))?;
        let mut kept = BTreeSet::new();
        for key in self.0.names()? {
            let path = key.directory(self.0.root()).join(MANIFEST);
            let layer = read(&path).map(|manifest| manifest.layer);
            let is_young = || {
                let modified = path.metadata().and_then(|facts| facts.modified()).ok()?;
                Some(modified.elapsed().unwrap_or_default() < unused_for)
            };
            match layer {
                Some(layer) if used.contains(&layer) || is_young() == Some(true) => {
                    kept.insert(layer);
                }
                _ => {
                    self.0.delete(key, |_| Ok::<_, StoreError>(true))?;
                }
            }
        }
        Ok(kept)
    }
}

fn read(path: &Path) -> Option<Manifest> {
    let json = regular_file::read(path, MAX_MANIFEST).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, StepCache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = StepCache::open(&directory.path().join("steps")).unwrap();
        (directory, cache)
    }

    #[test]
    fn a_key_is_that_of_its_parts_and_of_no_others() {
        let key = StepKey::of(&[b"a", b"bc"]);
        assert_eq!(key, StepKey::of(&[b"a", b"bc"]));
        for others in [[&b"ab"[..], b"c"], [b"", b"abc"]] {
            assert_ne!(key, StepKey::of(&others));
        }
    }

    #[test]
    fn a_step_is_found_again_until_nobody_uses_its_layer() {
        let (_directory, cache) = cache();
        let (key, layer) = (StepKey::of(&[b"a"]), Sha256Digest::of("layer"));
        assert_eq!(cache.get(key).unwrap(), None);
        cache.put(key, Sha256Digest::of("before")).unwrap();
        cache.put(key, layer).unwrap();
        assert_eq!(cache.get(key).unwrap(), Some(layer));
        let used = BTreeSet::from([layer]);
        assert_eq!(cache.sweep(&used, Duration::ZERO).unwrap(), used);
        let none = BTreeSet::new();
        assert_eq!(cache.sweep(&none, Duration::MAX).unwrap(), used);
        assert_eq!(cache.sweep(&none, Duration::ZERO).unwrap(), none);
        assert_eq!(cache.get(key).unwrap(), None);
    }
}
