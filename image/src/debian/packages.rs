//! Debian packages: found in APT's lists, downloaded, verified and unpacked, but never installed.
//! Needs no root.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironclaw_host::mark::{self, Mark};
use ironclaw_store::Sha256Digest;

use super::{directory, tool};
use crate::error::TemplateError;
use crate::file;
use crate::step::Step;

const LIST_LIMIT: Duration = Duration::from_secs(120);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(30 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Settings for `apt-get`: gives up on a dead network after a minute or two, and keeps root from
/// becoming `_apt`, who may not enter a directory of mode 0700.
const APT_SETTINGS: [&str; 4] = [
    "Acquire::Retries=2",
    "Acquire::http::Timeout=30",
    "Acquire::https::Timeout=30",
    "APT::Sandbox::User=root",
];

/// A package in APT's lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    depends: String,
    sha256: Sha256Digest,
}

/// The directories used for packages.
pub(super) struct Workshop<'a> {
    /// The directory of complete, verified packages by name and version.
    pub(super) cache: &'a Path,
    /// A private directory for unfinished ones.
    pub(super) staging: &'a Path,
}

impl Workshop<'_> {
    /// Finds the package version that APT would install.
    pub(super) fn find(&self, name: &str) -> Result<Package, TemplateError> {
        let unknown = |message: &str| TemplateError::UnknownPackage {
            package: name.to_owned(),
            message: message.to_owned(),
        };
        if !is_selector(name) {
            return Err(unknown("not a package name"));
        }
        let arguments = ["show", "--no-all-versions", name].map(OsString::from);
        let shown = self
            .run("apt-cache", &arguments, LIST_LIMIT)
            .map_err(|error| match error {
                TemplateError::ToolFailed { message, .. } => unknown(&message),
                other => other,
            })?;
        // A package that is only in dpkg's list of installed ones can't be downloaded, and has no
        // hash.
        shown
            .split("\n\n")
            .find_map(parse)
            .ok_or_else(|| unknown("it is in no package list"))
    }

    /// Finds a kernel: `name` itself, or the package that it depends on if it is a metapackage.
    pub(super) fn find_kernel(&self, name: &str) -> Result<Package, TemplateError> {
        let package = self.find(name)?;
        match depended_kernel(&package.depends) {
            Some(selector) => self.find(&selector),
            None => Ok(package),
        }
    }

    /// Downloads a package unless it is cached, unpacks it, and returns the directory.
    pub(super) fn fetch(
        &self,
        package: &Package,
        progress: &mut dyn FnMut(Step),
    ) -> Result<PathBuf, TemplateError> {
        let archive = self.archive(package, progress)?;
        progress(Step::Unpacking {
            package: package.name.clone(),
        });
        let directory = self.staging.join(&package.name);
        directory::create(&directory)?;
        let arguments = [
            OsString::from("-x"),
            archive.into(),
            directory.clone().into(),
        ];
        self.run("dpkg-deb", &arguments, UNPACK_LIMIT)?;
        Ok(directory)
    }

    /// Removes all packages but these from the cache, if it is ours.
    pub(super) fn keep_only(&self, packages: &[&Package]) -> Result<(), TemplateError> {
        let mark = mark::open(self.cache).and_then(|cache| mark::read(&cache));
        if mark.map_err(TemplateError::io("look at", self.cache))? != Mark::Ours {
            return Ok(());
        }
        let kept: Vec<PathBuf> = packages
            .iter()
            .map(|package| self.cached(package))
            .collect();
        for entry in directory::entries(self.cache)? {
            let path = entry.path();
            if is_package(&entry.file_name()) && !kept.contains(&path) {
                fs::remove_file(&path).map_err(TemplateError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn cached(&self, package: &Package) -> PathBuf {
        self.cache.join(format!(
            "{}_{}.deb",
            package.name,
            package.version.replace(':', "%3a")
        ))
    }

    fn archive(
        &self,
        package: &Package,
        progress: &mut dyn FnMut(Step),
    ) -> Result<PathBuf, TemplateError> {
        let cached = self.cached(package);
        if file::exists(&cached)? {
            if file::digest(&cached)? == package.sha256 {
                return Ok(cached);
            }
            tracing::warn!(path = %cached.display(), "a cached package is damaged; downloading it again");
        }
        progress(Step::Downloading {
            package: package.name.clone(),
        });
        let selector = format!("{}={}", package.name, package.version);
        let directory = self.staging.join(format!("{}.download", package.name));
        directory::create(&directory)?;
        let settings = APT_SETTINGS.into_iter().flat_map(|setting| ["-o", setting]);
        let arguments: Vec<OsString> = ["-qq"]
            .into_iter()
            .chain(settings)
            .chain(["download", &selector])
            .map(Into::into)
            .collect();
        tool::run(
            "apt-get",
            Path::new("apt-get"),
            &arguments,
            &directory,
            DOWNLOAD_LIMIT,
        )
        .map_err(|error| match error {
            TemplateError::ToolFailed { message, .. } => TemplateError::Download {
                package: selector.clone(),
                message,
            },
            other => other,
        })?;
        let wrong = || TemplateError::WrongPackage {
            package: selector.clone(),
        };
        let downloaded = directory::entries(&directory)?
            .first()
            .map(DirEntry::path)
            .ok_or_else(wrong)?;
        if file::digest(&downloaded)? != package.sha256 {
            return Err(wrong());
        }
        fs::set_permissions(&downloaded, Permissions::from_mode(0o600))
            .map_err(TemplateError::io("set the mode of", &downloaded))?;
        fs::rename(&downloaded, &cached).map_err(TemplateError::io("create", &cached))?;
        Ok(cached)
    }

    fn run(
        &self,
        program: &'static str,
        arguments: &[OsString],
        limit: Duration,
    ) -> Result<String, TemplateError> {
        tool::run(program, Path::new(program), arguments, self.staging, limit)
    }
}

fn is_package(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|it| it == "deb")
}

/// Returns whether `text` is a package name, with or without a version: nothing that a program
/// could take for an option or a path.
fn is_selector(text: &str) -> bool {
    let (name, version) = text.split_once('=').unwrap_or((text, "0"));
    let plain = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    plain(name, "+-.") && plain(version, "+-.~:")
}

/// Parses a stanza of `apt-cache show`.
fn parse(stanza: &str) -> Option<Package> {
    let field = |wanted: &str| {
        let lines = stanza.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(name, _)| *name == wanted)
            .map(|(_, value)| value.trim())
            .next()
    };
    let (name, version) = (field("Package")?, field("Version")?);
    is_selector(&format!("{name}={version}")).then_some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        depends: field("Depends").unwrap_or_default().to_owned(),
        sha256: field("SHA256")?.parse().ok()?,
    })
}

/// Returns the kernel package in the dependencies of a metapackage, as a selector for `apt-cache`:
/// `linux-image-6.1.0-9-cloud-amd64 (= 6.1.27-1)`.
fn depended_kernel(depends: &str) -> Option<String> {
    let kernel = depends
        .split(',')
        .map(str::trim)
        .find(|item| item.starts_with("linux-image-"))?;
    match kernel.split_once(" (= ") {
        Some((name, version)) => Some(format!("{name}={}", version.trim_end_matches(')'))),
        None => kernel.split(' ').next().map(str::to_owned),
    }
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses the output of APT's tools, whose fields the makers of packages choose.
pub fn fuzz(shown: &str) {
    for package in shown.split("\n\n").filter_map(parse) {
        assert!(is_selector(&format!(
            "{}={}",
            package.name, package.version
        )));
        let _ = depended_kernel(&package.depends);
    }
    let _ = depended_kernel(shown);
}

#[cfg(test)]
mod tests;
