//! What a source holds at this moment, to tell whether a template of it is there already.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr;

use ironclaw_store::Sha256Digest;
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use super::error::SourceError;
use super::layout;
use super::place::Place;
use super::source::RootSource;

/// A digest of what a source holds: of an image in a layout, of the digest of its manifest; of files,
/// of their stamps, which are another's when anybody has written to them. For an image in a registry
/// and for packages, of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceKey(Sha256Digest);

impl SourceKey {
    /// Looks at a source. Reads the documents of an image, and no contents of files.
    ///
    /// # Errors
    /// [`SourceError`]: the source is not there, or no image.
    pub(crate) fn of(source: &RootSource) -> Result<Self, SourceError> {
        match source {
            RootSource::OciLayout {
                directory,
                reference,
            } => {
                let place = Place::Directory(directory.clone());
                let image = layout::find(&place, reference.as_deref());
                let image = image.map_err(super::root::of_kind(directory, "OCI image layout"))?;
                Ok(Self::of_image(image.digest))
            }
            RootSource::OciArchive { file, reference }
            | RootSource::DockerArchive { file, reference } => {
                let name = reference.as_deref().unwrap_or_default();
                Self::of_files("archive", name, file)
            }
            // By its name, so that nobody who has it asks the registry: as docker has it, another build
            // of the same name brings what the registry has by then.
            RootSource::Registry(image) => Ok(Self(Sha256Digest::of(format!("registry\n{image}")))),
            RootSource::Debian { .. } => Ok(Self(Sha256Digest::of(format!("packages\n{source}")))),
            RootSource::Tar(file) => Self::of_files("tar", "", file),
            RootSource::Directory(directory) => Self::of_files("rootfs", "", directory),
        }
    }

    /// That of an image, wherever it is.
    pub(super) fn of_image(digest: Sha256Digest) -> Self {
        Self(Sha256Digest::of(format!("image\n{digest}")))
    }

    /// That of a file, or of all below a directory.
    fn of_files(kind: &str, reference: &str, path: &Path) -> Result<Self, SourceError> {
        let failed = |path: &Path, source| SourceError::Read {
            path: path.to_owned(),
            source,
        };
        let root = path.canonicalize().map_err(|error| failed(path, error))?;
        let mut hasher = Sha256::new();
        for text in [kind.as_bytes(), reference.as_bytes()] {
            add(&mut hasher, text);
        }
        for entry in WalkDir::new(&root).sort_by_file_name() {
            let entry = entry.map_err(|error| {
                let at = error.path().unwrap_or(&root).to_owned();
                failed(&at, error.into())
            })?;
            let metadata = entry
                .path()
                .symlink_metadata()
                .map_err(|error| failed(entry.path(), error))?;
            add(&mut hasher, entry.path().as_os_str().as_bytes());
            stamp(&mut hasher, &metadata);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        Ok(Self(digest.into()))
    }
}

fn add(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn stamp(hasher: &mut Sha256, metadata: &Metadata) {
    let (changed, changed_ns) = (metadata.ctime(), metadata.ctime_nsec());
    let (written, written_ns) = (metadata.mtime(), metadata.mtime_nsec());
    for number in [changed, changed_ns, written, written_ns] {
        hasher.update(number.to_le_bytes());
    }
    for number in [metadata.dev(), metadata.ino(), metadata.size()] {
        hasher.update(number.to_le_bytes());
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SourceKey {
    type Err = <Sha256Digest as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_source_has_another_key_once_anything_in_it_was_changed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/name"), "one").unwrap();
        symlink("/nowhere", root.join("link")).unwrap();
        let source = RootSource::Directory(root.clone());
        let key = || SourceKey::of(&source).unwrap();
        let first = key();
        assert_eq!(key(), first);
        fs::write(root.join("etc/name"), "two").unwrap();
        let second = key();
        assert_ne!(second, first);
        fs::rename(root.join("etc/name"), root.join("etc/other")).unwrap();
        assert_ne!(key(), second);
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        for text in ["rootfs:/nowhere/x", "tar:/nowhere/x", "oci:/nowhere/x"] {
            let source = RootSource::parse(text.as_ref()).unwrap();
            let error = SourceKey::of(&source).unwrap_err();
            assert!(error.to_string().contains("/nowhere/x"), "{error}");
        }
    }
}
