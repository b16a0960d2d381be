//! `template.json`: what a template was made of.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::untrusted;

use super::hash::Sha256Hex;
use super::{TemplateError, TemplateHash, file};

/// Version of the manifest's format.
pub const FORMAT: u16 = 1;

/// Largest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 64 * 1024;

/// What a template was made of, and how its files can be told from damaged ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u16,
    /// Version of the guest protocol that the agent was built against; it has to be
    /// [`ironclaw_protocol::VERSION`].
    pub protocol: u16,
    /// The template's name.
    pub hash: TemplateHash,
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs; an imported kernel may do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<Initramfs>,
    /// Arguments for the guest's kernel that every VMM passes; backends add their own.
    pub boot_args: String,
    /// When it was built, in seconds since 1970-01-01 00:00:00 UTC.
    pub created: u64,
}

/// The kernel of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kernel {
    /// The Debian package that it comes from, unless it was given as a file.
    pub package: Option<PackageVersion>,
    /// As `uname -r` prints it in the guest.
    pub release: String,
    /// Of the vmlinux.
    pub sha256: Sha256Hex,
    /// Of the vmlinux, in bytes.
    pub size: u64,
}

/// The initramfs of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Initramfs {
    /// The Debian package of busybox, unless it was given as a file.
    pub busybox: Option<PackageVersion>,
    /// Of the guest agent's executable; not known of an imported archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_sha256: Option<Sha256Hex>,
    /// Of the archive.
    pub sha256: Sha256Hex,
    /// Of the archive, in bytes.
    pub size: u64,
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PackageVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What is read before the rest, so that an older or newer format is told from a damaged one.
#[derive(Deserialize)]
struct Head {
    format: u16,
}

impl Manifest {
    /// Describes a template that is made now.
    pub(super) fn new(kernel: Kernel, initramfs: Option<Initramfs>, boot_args: String) -> Self {
        // A clock before 1970 is no reason to fail: the time is for people only.
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let archive = initramfs.as_ref().map(|initramfs| &initramfs.sha256);
        Self {
            format: FORMAT,
            protocol: ironclaw_protocol::VERSION,
            hash: Sha256Hex::of_template(&kernel.sha256, archive, &boot_args),
            kernel,
            initramfs,
            boot_args,
            created,
        }
    }

    /// Reads the manifest of the template `hash` and checks that this program can use it.
    pub(super) fn read(path: &Path, hash: &TemplateHash) -> Result<Self, TemplateError> {
        Self::parse(&file::read(path, MAX_MANIFEST)?, path, hash)
    }

    /// The manifest in `bytes`, which may hold anything; `path` is for errors.
    fn parse(bytes: &[u8], path: &Path, hash: &TemplateHash) -> Result<Self, TemplateError> {
        let bad = |reason: String| TemplateError::Manifest {
            path: path.to_owned(),
            reason: untrusted::line(&reason),
        };
        let outdated = |what, found, needed| TemplateError::Outdated {
            hash: hash.clone(),
            what,
            found,
            needed,
        };
        let head: Head = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if head.format != FORMAT {
            return Err(outdated("manifest format", head.format, FORMAT));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if manifest.protocol != ironclaw_protocol::VERSION {
            let needed = ironclaw_protocol::VERSION;
            return Err(outdated("guest protocol", manifest.protocol, needed));
        }
        if manifest.hash != *hash || manifest.computed_hash() != *hash {
            return Err(bad("its hash does not belong to its content".to_owned()));
        }
        if !manifest.texts().all(is_plain) {
            return Err(bad("a text in it holds control characters".to_owned()));
        }
        Ok(manifest)
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// Whether nothing in it was put together by [`TemplateStore::build`](super::TemplateStore).
    pub(super) fn is_imported(&self) -> bool {
        let initramfs = self.initramfs.as_ref();
        initramfs.is_none_or(|initramfs| initramfs.agent_sha256.is_none())
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let busybox = self.initramfs.as_ref().map(|it| it.busybox.as_ref());
        let packages = [self.kernel.package.as_ref(), busybox.flatten()];
        let packages = packages.into_iter().flatten();
        let packages = packages.flat_map(|package| [&*package.name, &package.version]);
        packages.chain([&*self.kernel.release, &self.boot_args])
    }

    fn computed_hash(&self) -> TemplateHash {
        let initramfs = self.initramfs.as_ref().map(|initramfs| &initramfs.sha256);
        Sha256Hex::of_template(&self.kernel.sha256, initramfs, &self.boot_args)
    }
}

/// Whether a text drives no terminal that shows it.
pub(super) fn is_plain(text: &str) -> bool {
    !text
        .chars()
        .any(|c| untrusted::is_deceptive(c) && c != '\t')
}

#[cfg(any(test, feature = "fuzzing"))]
/// A file that should be a manifest. Its hash is made right: no fuzzer finds one.
pub(crate) fn fuzz(json: &[u8]) {
    let path = Path::new("template.json");
    let Ok(mut manifest) = serde_json::from_slice::<Manifest>(json) else {
        assert!(Manifest::parse(json, path, &Sha256Hex::of(json)).is_err());
        return;
    };
    manifest.hash = manifest.computed_hash();
    let json = manifest.to_json().unwrap_or_default();
    if let Ok(read) = Manifest::parse(&json, path, &manifest.hash) {
        assert_eq!(read, manifest);
        assert!(read.texts().all(is_plain));
    }
}
