//! The features and defects of Firecracker's versions, all in one place.
//!
//! The facts are from Firecracker's CHANGELOG.md and its sources at the tags. A pre-release like
//! `1.17.0-dev` counts as the release that it will become.

use semver::Version;
use thiserror::Error;

/// The features and defects of a version of Firecracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quirks {
    /// Whether the guest receives from the host after `PATCH /vm` `Paused` and `Resumed`. In 1.16
    /// the vsock device then waits for the guest to acknowledge a reset that it was never sent
    /// (#6100). Clones are held by a signal instead, which no version notices.
    pub hears_after_pause: bool,
    /// Whether a guest's kernel may be a `bzImage`, whose loader chooses the kernel's address.
    pub boots_bz_image: bool,
}

/// A version that is not supported, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is version {version}, {reason}: take {MINIMUM_VERSION} or newer")]
#[non_exhaustive]
pub struct Unsupported {
    version: Version,
    reason: &'static str,
}

/// The oldest supported version. 1.15 lacks `vsock_override`, which a clone could do without, and
/// loses what the host sends to a restored guest before the guest has handled the reset of its
/// connections (#5882).
pub const MINIMUM_VERSION: &str = "1.16.1";

impl Quirks {
    /// Returns those of `version`.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub(super) fn for_version(version: &Version) -> Result<Self, Unsupported> {
        let release = (version.major, version.minor, version.patch);
        let unsupported = |reason| {
            let version = version.clone();
            Err(Unsupported { version, reason })
        };
        match release {
            (1, 16, 0) => unsupported("whose restored guests can't be heard (#5958)"),
            (1, 15, _) => unsupported(
                "whose restored guests may be cut off from the host when it has just reached them \
                 (#5882)",
            ),
            older if older < (1, 16, 0) => unsupported("which lacks what clones need"),
            _ => Ok(Self {
                hears_after_pause: release >= (1, 17, 0),
                boots_bz_image: release >= (1, 17, 0),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quirks(version: &str) -> Result<Quirks, Unsupported> {
        Quirks::for_version(&Version::parse(version).unwrap())
    }

    #[test]
    fn each_version_that_serves_has_what_its_changelog_says() {
        let facts = |version| {
            let quirks = quirks(version).unwrap();
            [quirks.hears_after_pause, quirks.boots_bz_image]
        };
        for (version, expected) in [
            ("1.16.1", [false, false]),
            ("1.16.2", [false, false]),
            ("1.17.0-dev", [true, true]),
            ("1.17.0", [true, true]),
            ("2.0.0", [true, true]),
        ] {
            assert_eq!(facts(version), expected, "{version}");
        }
    }

    #[test]
    fn a_version_that_does_not_serve_is_told_with_the_reason_and_what_to_take() {
        for (version, reason) in [
            ("1.16.0", "#5958"),
            ("1.16.0-dev", "#5958"),
            ("1.15.1", "#5882"),
            ("1.14.2", "lacks"),
            ("0.25.2", "lacks"),
        ] {
            let text = quirks(version).unwrap_err().to_string();
            for part in [version, reason, "1.16.1 or newer"] {
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
        }
        assert!(quirks(MINIMUM_VERSION).is_ok());
    }
}
