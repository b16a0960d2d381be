//! What versions of Firecracker can do and what is wrong with them, all in one chroot.
//!
//! The facts are those of Firecracker's CHANGELOG.md and of its sources at the tags. A
//! pre-release, such as `1.17.0-dev`, counts as the release that it becomes.

use semver::Version;
use thiserror::Error;

/// What a version of Firecracker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// The guest hears from the host after `PATCH /vm` `Paused` and `Resumed`. In 1.16 the vsock
    /// device waits then for the guest to acknowledge a reset that it was never told of (#6100).
    /// Clones are held by a signal, of which no version is the wiser.
    pub hears_after_pause: bool,
    /// A guest's kernel may be a `bzImage`, whose loader moves it to an address of its own choice.
    pub boots_bz_image: bool,
}

/// A version that does not serve, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is version {version}, {reason}: take {MINIMUM_VERSION} or newer")]
pub struct Unsupported {
    version: Version,
    reason: &'static str,
}

/// The oldest version that serves. 1.15 lacks `vsock_override`, which a clone could do without, and
/// does not keep what the host says to a restored guest until that has dealt with the reset of its
/// connections (#5882).
pub const MINIMUM_VERSION: Version = Version::new(1, 16, 1);

impl Quirks {
    /// Those of `version`.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn of(version: &Version) -> Result<Self, Unsupported> {
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

    fn of(version: &str) -> Result<Quirks, Unsupported> {
        Quirks::of(&Version::parse(version).unwrap())
    }

    #[test]
    fn each_version_that_serves_has_what_its_changelog_says() {
        let facts = |version| {
            let quirks = of(version).unwrap();
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
            let text = of(version).unwrap_err().to_string();
            for part in [version, reason, "1.16.1 or newer"] {
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
        }
        assert!(Quirks::of(&MINIMUM_VERSION).is_ok());
    }
}
