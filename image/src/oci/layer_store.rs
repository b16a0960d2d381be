//! Unpacked layers on disk, shared by the images that have them.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ironclaw_host::regular_file;
use ironclaw_store::{
    Artefact, DirLock, Pin, Sha256Digest, Store, StoreError, StoreName, file as durable,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::SourceError;
use super::unpack::{Unpacked, unpack};

/// The archive in a layer's directory.
const ARCHIVE: &str = "layer.tar";
const MANIFEST: &str = "layer.json";
const MAX_MANIFEST: u64 = 4096;

/// A layer by the digest of what it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerId(pub Sha256Digest);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Artefact for LayerId {
    const STORE: StoreName = StoreName {
        what: "layer",
        setting: "`template_path`",
    };
    const MANIFEST: &'static str = MANIFEST;
    const NAME_FIELD: &'static str = "digest";

    fn parse(directory: &str) -> Option<Self> {
        directory.parse().ok().map(Self)
    }

    fn in_manifest(&self) -> String {
        self.to_string()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    digest: Sha256Digest,
    size: u64,
}

/// The layers of all images that templates were made of.
///
/// ```text
/// <root>/<digest>/layer.tar    the archive, as it is unpacked
///                 layer.json   its digest and size
/// ```
#[derive(Debug, Clone)]
pub struct LayerStore(Store<LayerId>);

/// What a blob is said to be, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// The digest of what it unpacks to.
    pub(crate) archive: Option<Sha256Digest>,
    /// Its own digest.
    pub(crate) blob: Option<Sha256Digest>,
    /// Its own size.
    pub(crate) size: Option<u64>,
}

/// A layer that can't be deleted meanwhile.
#[derive(Debug)]
pub(crate) struct StoredLayer {
    pub(crate) archive: Arc<File>,
    _pin: DirLock,
}

impl LayerStore {
    /// Opens the store in `root`, which is created with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Store::open(root).map(Self)
    }

    /// Returns a layer if it is here.
    pub(crate) fn get(&self, digest: Sha256Digest) -> Result<Option<StoredLayer>, SourceError> {
        let id = LayerId(digest);
        let Pin::Held(pin) = self.0.pin(id)? else {
            return Ok(None);
        };
        let directory = id.directory(self.0.root());
        let sound = || -> io::Result<Option<File>> {
            let json = regular_file::read(&directory.join(MANIFEST), MAX_MANIFEST)?;
            let archive = regular_file::open(&directory.join(ARCHIVE))?;
            let length = archive.metadata()?.len();
            let manifest = serde_json::from_slice::<Manifest>(&json);
            let is_whole = manifest.is_ok_and(|it| it.digest == digest && it.size == length);
            Ok(is_whole.then_some(archive))
        };
        match sound() {
            Ok(Some(archive)) => Ok(Some(StoredLayer {
                archive: Arc::new(archive),
                _pin: pin,
            })),
            // Whatever is wrong with it, it can be made again.
            Ok(None) | Err(_) => {
                drop(pin);
                self.0.delete(id, |_| Ok::<_, StoreError>(true))?;
                Ok(None)
            }
        }
    }

    /// Unpacks a blob into the store. Refuses it, and keeps nothing, unless it is what is expected.
    pub(crate) fn put(
        &self,
        reader: impl Read,
        name: &str,
        expected: Expected,
        limit: u64,
    ) -> Result<(Sha256Digest, StoredLayer), SourceError> {
        let staging = {
            let root = self.0.lock()?;
            self.0.stage(&root, &Uuid::now_v7().simple().to_string())?
        };
        let path = staging.path().join(ARCHIVE);
        let failed = |error: io::Error| self.0.io("write", &path, error);
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        let size = expected.size;
        // One byte more tells a blob that is too long.
        let reader = reader.take(size.map_or(u64::MAX, |size| size.saturating_add(1)));
        let unpacked = unpack(reader, &mut file, limit).map_err(|error| {
            if ironclaw_host::disk::is_full(&error) {
                return failed(error).into();
            }
            SourceError::Unpack {
                layer: name.to_owned(),
                reason: ironclaw_host::untrusted::message(&error.to_string()),
            }
        })?;
        let Unpacked {
            blob: found_blob,
            blob_bytes,
            archive: found,
            bytes: size,
        } = unpacked;
        if let Some(expected) = expected.size.filter(|size| *size != blob_bytes) {
            return Err(SourceError::Size {
                layer: name.to_owned(),
                expected,
                found: if blob_bytes > expected {
                    "more"
                } else {
                    "less"
                },
            });
        }
        for (expected, found) in [(expected.blob, found_blob), (expected.archive, found)] {
            if let Some(expected) = expected
                && expected != found
            {
                return Err(SourceError::Digest {
                    what: "layer",
                    expected,
                    found,
                });
            }
        }
        file.flush()
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        let manifest = Manifest {
            digest: found,
            size,
        };
        let json = serde_json::to_vec(&manifest).map_err(|error| failed(error.into()))?;
        let written = durable::write_new(&staging.path().join(MANIFEST), &json);
        written.map_err(failed)?;
        // Another process, or another layer of the image, may have brought it meanwhile.
        if let Some(layer) = self.get(found)? {
            return Ok((found, layer));
        }
        let pin = staging.publish(LayerId(found))?;
        let layer = StoredLayer {
            archive: Arc::new(file),
            _pin: pin,
        };
        Ok((found, layer))
    }

    /// Removes a layer, unless somebody uses it.
    #[cfg(feature = "debian")]
    pub(crate) fn discard(&self, digest: Sha256Digest) -> Result<(), StoreError> {
        let id = LayerId(digest);
        self.0.delete(id, |_| Ok::<_, StoreError>(true)).map(drop)
    }

    /// Removes the layers that are not in `keep` and that nobody uses, and what killed processes left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_all_but(&self, keep: &BTreeSet<Sha256Digest>) -> Result<(), StoreError> {
        self.0.sweep(|_, _| Ok::<_, StoreError>(None))?;
        for id in self.0.names()? {
            if !keep.contains(&id.0) {
                // One in use is left for the next time, and a foreign one for its owner.
                self.0.delete(id, |_| Ok::<_, StoreError>(true))?;
            }
        }
        Ok(())
    }
}
