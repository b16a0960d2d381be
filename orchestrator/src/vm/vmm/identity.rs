//! The identity of a hypervisor.

use std::borrow::Cow;
use std::fmt;

use ironclaw_store::Sha256Digest;
use serde::{Deserialize, Serialize};

/// Limit of a kind's length in bytes: it is part of file names, and of lines that people read.
const MAX_KIND: usize = 32;

/// The identity of a hypervisor, as precise as the compatibility of its state files requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VmmIdentity {
    /// The kind of hypervisor.
    pub kind: VmmKind,
    /// The exact version that it reports.
    pub version: String,
    /// The accelerator of guest code, like `kvm` or `tcg`.
    pub accelerator: String,
    /// A digest of drives, network interfaces and a CPU template, if guests get any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Sha256Digest>,
}

impl VmmIdentity {
    /// Creates that of a hypervisor whose guests get no devices of the host.
    #[must_use]
    pub fn new(kind: VmmKind, version: impl Into<String>, accelerator: impl Into<String>) -> Self {
        Self {
            kind,
            version: version.into(),
            accelerator: accelerator.into(),
            devices: None,
        }
    }
}

impl fmt::Display for VmmIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.kind, self.version, self.accelerator)
    }
}

/// The kind of a hypervisor: its name. Any backend may add one, and a snapshot of an unknown kind
/// is incompatible, not damaged.
///
/// It is written and compared in lower case, and displayed as the backend spells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmmKind(Cow<'static, str>);

/// The error of a text that is no valid kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a kind of hypervisor is 1 to {MAX_KIND} letters, digits or `-`")]
pub struct BadKind;

impl VmmKind {
    /// Creates the kind that its backend spells so.
    ///
    /// # Panics
    /// If it is not 1 to 32 ASCII letters, digits or `-`; at compile time in a constant.
    #[must_use]
    pub const fn new(spelled: &'static str) -> Self {
        assert!(is_kind(spelled), "not a kind of hypervisor");
        Self(Cow::Borrowed(spelled))
    }

    /// Returns the name in lower case, as in settings and manifests.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// Returns whether it has this name, in any case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }
}

const fn is_kind(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_alphanumeric() && bytes[at] != b'-' {
            return false;
        }
        at += 1;
    }
    matches!(bytes.len(), 1..=MAX_KIND)
}

impl PartialEq for VmmKind {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for VmmKind {}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for VmmKind {
    type Error = BadKind;

    fn try_from(name: String) -> Result<Self, BadKind> {
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        (is_kind(&name) && is_lower)
            .then_some(Self(Cow::Owned(name)))
            .ok_or(BadKind)
    }
}

impl From<VmmKind> for String {
    fn from(kind: VmmKind) -> Self {
        kind.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_in_lower_case_and_shown_as_its_backend_spells_it() {
        let kind = VmmKind::new("QEMU");
        assert_eq!(serde_json::to_string(&kind).unwrap(), r#""qemu""#);
        let read: VmmKind = serde_json::from_str(r#""qemu""#).unwrap();
        assert_eq!((&read, kind.to_string().as_str()), (&kind, "QEMU"));
        assert_ne!(read, VmmKind::new("Firecracker"));
    }

    #[test]
    fn a_kind_that_no_backend_could_have_is_refused() {
        let long = "x".repeat(MAX_KIND + 1);
        for name in ["", "QEMU", "a b", "../x", "\u{1b}[2J", "é", &long] {
            let json = serde_json::to_string(name).unwrap();
            serde_json::from_str::<VmmKind>(&json).unwrap_err();
        }
        serde_json::from_str::<VmmKind>(r#""cloud-hypervisor""#).unwrap();
    }
}
