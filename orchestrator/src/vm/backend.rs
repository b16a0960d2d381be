//! A backend: a kind of hypervisor before it is opened. It has settings of its own, detects whether
//! it is installed on this host, and creates the [`Vmm`]s that make VMs.
//!
//! ```text
//!   settings ── order ──▶ backends that may serve, best first
//!                            │ detect: is it installed and may it be used?
//!                            ▼
//!                         installed ── open ──▶ candidates, best first
//!                                                  │ a boot, where it takes one to know
//!                                                  ▼
//!                                                 Vmm
//! ```
//!
//! [`backends`](super::backends) lists the built-in ones; a program adds others to
//! [`Config::backends`](super::config::Config::backends). The rules of the selection are in
//! `select`.

pub(crate) mod select;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{Vmm, VmmError, VmmKind};

/// A kind of hypervisor, with its settings.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns its kind, by which a setting chooses it.
    fn kind(&self) -> VmmKind;

    /// Returns the prefixes of its process names.
    fn process_names(&self) -> &'static [&'static str];

    /// Returns the setting that requires this backend, if it is set: then this backend serves, or
    /// none.
    fn insists(&self) -> Option<&'static str> {
        None
    }

    /// Detects it on this host. Creates nothing.
    ///
    /// # Errors
    /// [`Absence`], which tells whether another one may serve instead.
    async fn detect(&self, surroundings: &Surroundings) -> Result<Box<dyn Installed>, Absence>;
}

/// A backend that was detected.
#[async_trait]
pub trait Installed: Send {
    /// Opens its hypervisors, at least one, best first. Logs warnings about how they run here,
    /// because they are about to be used.
    ///
    /// # Errors
    /// [`VmmError`] if it can't be used after all.
    async fn open(self: Box<Self>) -> Result<Vec<Candidate>, VmmError>;
}

/// A hypervisor that may serve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Candidate {
    /// The hypervisor.
    pub vmm: Arc<dyn Vmm>,
    /// Whether it runs guests here.
    pub trust: Trust,
}

impl Candidate {
    /// Creates one of which this much is known.
    #[must_use]
    pub fn new(vmm: Arc<dyn Vmm>, trust: Trust) -> Self {
        Self { vmm, trust }
    }
}

/// The evidence that a hypervisor runs guests on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// It does.
    Sure,
    /// Only a boot can tell: a /dev/kvm that can be opened proves little.
    UntilItBoots,
}

/// The reason why a backend is absent.
#[derive(Debug)]
#[non_exhaustive]
pub enum Absence {
    /// The host lacks its requirements; another one serves, silently.
    Host(String),
    /// It is not installed, or can't be used, but was not requested by name: another one serves.
    Program(VmmError),
    /// Something requested is impossible: that is an error, and nothing serves in its place.
    Refused(VmmError),
}

impl Absence {
    /// Creates it from the error of a program, which was either named by a setting or looked for on
    /// PATH.
    #[must_use]
    pub fn of_program(error: VmmError, is_named: bool) -> Self {
        match &error {
            VmmError::NotInstalled { path: None, .. } => Self::Program(error),
            VmmError::Unusable { .. } if !is_named => Self::Program(error),
            _ => Self::Refused(error),
        }
    }
}

/// The settings shared by the VMs of all backends.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Surroundings {
    /// The directory for running VMs.
    pub run_path: PathBuf,
    /// Directories of what VMs read: snapshots and templates.
    pub read_paths: Vec<PathBuf>,
    /// Whether to jail VMMs.
    pub jail: JailChoice,
    /// The user ids of jailed VMMs.
    pub jail_users: RangeInclusive<u32>,
    /// Where processes are added that are dropped.
    #[cfg_attr(
        not(any(feature = "firecracker", feature = "qemu")),
        expect(dead_code, reason = "backends of others have no use for it")
    )]
    pub(crate) rundown: Rundown,
}

/// Whether to jail VMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JailChoice {
    /// QEMU by the strongest jail that can be had, with a warning where it could be stronger;
    /// Firecracker as root by its jailer or an error, as another user confined by Landlock and filters.
    #[default]
    Auto,
    /// Namespaces and a root directory of its own, or an error.
    On,
    /// No jail.
    Off,
}

impl JailChoice {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl FromStr for JailChoice {
    type Err = ();

    /// Parses `auto`, `on` or `off`.
    ///
    /// # Errors
    /// It is none of these.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_nobody_asked_for_by_name_can_be_done_without() {
        let missing = |path: Option<&str>| VmmError::NotInstalled {
            program: "vmm",
            path: path.map(Into::into),
            hint: "",
        };
        let unusable = || VmmError::Unusable {
            program: "vmm",
            path: "/vmm".into(),
            reason: "of its age".to_owned(),
        };
        let full = || VmmError::io("write")(std::io::ErrorKind::StorageFull.into());
        for (error, is_named, is_told) in [
            (missing(None), false, false),
            (missing(Some("/x")), true, true),
            (unusable(), false, false),
            (unusable(), true, true),
            (full(), false, true),
        ] {
            let text = error.to_string();
            let absence = Absence::of_program(error, is_named);
            let refused = matches!(absence, Absence::Refused(_));
            assert_eq!(refused, is_told, "{text} {is_named}");
        }
    }
}
