//! The manifest of a template, `template.json`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ironclaw_host::untrusted;
use ironclaw_store::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::error::TemplateError;
use crate::file;
use crate::hash::TemplateHash;
use crate::root_origin::RootOrigin;
use crate::warm::Warm;

/// The version of the manifest's format.
pub const FORMAT: u16 = 1;

/// Size limit of a manifest, in bytes.
pub(crate) const MAX_MANIFEST: u64 = 1 << 20;

/// The inputs of a template, and hashes of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u16,
    /// The version of the guest protocol that the agent was built for; it has to be
    /// [`ironclaw_protocol::VERSION`].
    pub protocol: u16,
    /// The template's name.
    pub hash: TemplateHash,
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs; an imported kernel may have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<Initramfs>,
    /// The image of the guest's root; without one, its root is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<RootDisk>,
    /// Where the root came from, if it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_origin: Option<RootOrigin>,
    /// The programs that make guests warm; there may be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<Warm>,
    /// Arguments for the guest's kernel that every VMM passes; backends add their own.
    pub boot_args: String,
    /// The time of the build, in seconds since 1970-01-01 00:00:00 UTC.
    pub created: u64,
}

/// The kernel of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kernel {
    /// The Debian package that it is from, unless it was given as a file.
    pub package: Option<PackageVersion>,
    /// Its release, as `uname -r` prints it in the guest.
    pub release: String,
    /// The hash of the vmlinux.
    pub sha256: Sha256Digest,
    /// The size of the vmlinux in bytes.
    pub size: u64,
}

/// The initramfs of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Initramfs {
    /// The Debian package of busybox, unless it was given as a file.
    pub busybox: Option<PackageVersion>,
    /// The hash of the guest agent's executable; unknown for an imported archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_sha256: Option<Sha256Digest>,
    /// The hash of the archive.
    pub sha256: Sha256Digest,
    /// The size of the archive in bytes.
    pub size: u64,
}

/// The image of a template's root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RootDisk {
    /// The hash of the image.
    pub sha256: Sha256Digest,
    /// The size of the image in bytes.
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

/// The part that is read first, to tell an older or newer format from a damaged one.
#[derive(Deserialize)]
struct Head {
    format: u16,
}

impl Manifest {
    /// Describes a template that is being made.
    pub(crate) fn new(
        kernel: Kernel,
        initramfs: Option<Initramfs>,
        (root_disk, root_origin): (Option<RootDisk>, Option<RootOrigin>),
        warm: Option<Warm>,
        boot_args: String,
    ) -> Self {
        // A clock before 1970 is no reason to fail: the time is only shown.
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let mut manifest = Self {
            format: FORMAT,
            protocol: ironclaw_protocol::VERSION,
            hash: kernel.sha256.into(),
            kernel,
            initramfs,
            root_disk,
            root_origin,
            warm,
            boot_args,
            created,
        };
        manifest.hash = manifest.computed_hash();
        manifest
    }

    /// Reads the manifest of the template `hash` and checks that this program can use it.
    pub(crate) fn read(path: &Path, hash: &TemplateHash) -> Result<Self, TemplateError> {
        Self::parse(&file::read(path, MAX_MANIFEST)?, path, hash)
    }

    /// Parses a manifest from arbitrary `bytes`; `path` is for errors.
    fn parse(bytes: &[u8], path: &Path, hash: &TemplateHash) -> Result<Self, TemplateError> {
        let bad = |reason: String| TemplateError::Manifest {
            path: path.to_owned(),
            reason: untrusted::line(&reason),
        };
        let outdated = |what, found, needed| TemplateError::Outdated {
            hash: *hash,
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

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// Returns whether it was imported, not built by
    /// a build.
    pub(crate) fn is_imported(&self) -> bool {
        let initramfs = self.initramfs.as_ref();
        initramfs.is_none_or(|initramfs| initramfs.agent_sha256.is_none())
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let busybox = self.initramfs.as_ref().map(|it| it.busybox.as_ref());
        let packages = [self.kernel.package.as_ref(), busybox.flatten()];
        let packages = packages.into_iter().flatten();
        let packages = packages.flat_map(|package| [&*package.name, &package.version]);
        let origin = self.root_origin.iter();
        let origin = origin.flat_map(|it| it.steps.iter().chain([&it.source]));
        let texts = packages.chain([&*self.kernel.release, &self.boot_args]);
        texts.chain(origin.map(String::as_str))
    }

    fn computed_hash(&self) -> TemplateHash {
        let initramfs = self.initramfs.as_ref().map(|initramfs| &initramfs.sha256);
        let image = self.root_disk.as_ref().map(|image| &image.sha256);
        let config = self.root_origin.as_ref().map(RootOrigin::config_digest);
        let root = (image, config.as_ref());
        let warm = self.warm.as_ref().map(Warm::digest);
        let warm = warm.as_ref();
        TemplateHash::new(&self.kernel.sha256, initramfs, root, warm, &self.boot_args)
    }
}

/// Returns whether a text has no characters that control a terminal.
pub(crate) fn is_plain(text: &str) -> bool {
    !text
        .chars()
        .any(|c| untrusted::is_deceptive(c) && c != '\t')
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses a file that should be a manifest. Fixes its hash first, which no fuzzer finds.
pub fn fuzz(json: &[u8]) {
    let path = Path::new("template.json");
    let Ok(mut manifest) = serde_json::from_slice::<Manifest>(json) else {
        assert!(Manifest::parse(json, path, &Sha256Digest::of(json).into()).is_err());
        return;
    };
    manifest.hash = manifest.computed_hash();
    let json = manifest.to_json().unwrap_or_default();
    if let Ok(read) = Manifest::parse(&json, path, &manifest.hash) {
        assert_eq!(read, manifest);
        assert!(read.texts().all(is_plain));
    }
}
