//! A backend: what a hypervisor is before it is one here. It has settings of its own, says whether
//! it is to be found on this host, and makes the [`Vmm`]s that VMs come from.
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
//! Which are built in, [`backends`](super::backends) lists; a program adds others to
//! [`Config::backends`](super::config::Config::backends). What is decided is decided in `select`.

pub(crate) mod select;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::vm::vmm::{Vmm, VmmError, VmmKind};

/// A kind of hypervisor, with its settings.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Which one: what the setting that chooses one calls it.
    fn kind(&self) -> VmmKind;

    /// How the names of its processes begin.
    fn process_names(&self) -> &'static [&'static str];

    /// The setting that is set for which no other backend has anything: with it this one serves, or
    /// none.
    fn insists(&self) -> Option<&'static str> {
        None
    }

    /// Looks for it on this host. It makes nothing.
    ///
    /// # Errors
    /// [`Absence`] says whether another one may serve instead.
    async fn detect(&self, surroundings: &Surroundings) -> Result<Box<dyn Installed>, Absence>;
}

/// A backend that was found.
#[async_trait]
pub trait Installed: Send {
    /// The hypervisors that it makes, best first, and at least one. What is said about how they run
    /// is said here, since they are about to be used.
    ///
    /// # Errors
    /// [`VmmError`] if it can't be used after all.
    async fn open(self: Box<Self>) -> Result<Vec<Candidate>, VmmError>;
}

/// A hypervisor that may serve.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The hypervisor.
    pub vmm: Arc<dyn Vmm>,
    /// Whether it runs guests here.
    pub trust: Trust,
}

/// Whether a hypervisor runs guests on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Sure,
    /// As far as one can tell before a guest has booted: a /dev/kvm that can be opened proves little.
    UntilItBoots,
}

/// Why a backend is not to be had.
#[derive(Debug)]
pub enum Absence {
    /// The host has not what it takes; another one serves, and nobody is told.
    Host(String),
    /// It is not installed, or can't be used, and nobody asked for it by name: another one serves.
    Program(VmmError),
    /// What somebody asked for can't be had: that is told, and nothing serves in its place.
    Refused(VmmError),
}

impl Absence {
    /// Why a program was not found, or is of no use: the one at a path that a setting names, or
    /// whichever there is on PATH.
    #[must_use]
    pub fn of_program(error: VmmError, is_named: bool) -> Self {
        match &error {
            VmmError::NotInstalled { path: None, .. } => Self::Program(error),
            VmmError::Unusable { .. } if !is_named => Self::Program(error),
            _ => Self::Refused(error),
        }
    }
}

/// What VMs of each backend share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Directory for what running VMs need.
    pub run_path: PathBuf,
    /// Directories of what VMs read: snapshots and templates.
    pub read_paths: Vec<PathBuf>,
    /// Whether VMMs are jailed.
    pub jail: JailChoice,
    /// User ids of jailed VMMs.
    pub jail_users: RangeInclusive<u32>,
}

/// Whether VMMs are jailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JailChoice {
    /// QEMU by the strongest jail that can be had, with a warning where it could be stronger;
    /// Firecracker as root by its jailer or an error, as another user confined by Landlock and filters.
    #[default]
    Auto,
    /// In namespaces and a root directory of its own, or an error.
    On,
    /// Not jailed.
    Off,
}

impl FromStr for JailChoice {
    type Err = ();

    /// `auto`, `on` or `off`.
    ///
    /// # Errors
    /// It is anything else.
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
