//! QEMU's settings, and its detection on this host.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use ironclaw_settings::DefaultValue::{Described, Is};
use ironclaw_settings::{BadValue, Setting, Values};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Accelerator, Jail, KIND, Qemu, QemuBinary};
use crate::vm::backend::{Absence, Backend, Candidate, Installed, JailChoice, Surroundings, Trust};
use crate::vm::kvm;
use crate::vm::vmm::{VmmError, VmmKind};

/// The QEMU binary.
pub const BINARY: Setting = Setting::text(
    "qemu",
    Described("qemu-system-x86_64 on PATH"),
    "path of the QEMU binary",
);
/// How QEMU runs a guest's code.
pub const ACCEL: Setting = Setting::text(
    "qemu_accel",
    Is("auto"),
    "auto (KVM if a probe shows that it runs the guest), kvm or tcg",
);

/// All settings of this backend.
pub(in crate::vm) const SETTINGS: &[Setting] = &[BINARY, ACCEL];

/// The prefixes of its process names.
pub(in crate::vm) const PROCESS_NAMES: &[&str] = &["qemu"];

/// Its accelerators.
pub(in crate::vm) const ACCELERATORS: &[&str] = &[Accelerator::Tcg.name(), Accelerator::Kvm.name()];

/// The settings of QEMU, beside those of all backends.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct QemuSettings {
    /// The path of the QEMU binary, if not the one on PATH.
    pub binary: Option<PathBuf>,
    /// The choice of the accelerator.
    pub accel: AccelChoice,
}

/// A choice of the accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM if a probe has shown that it runs our guest, translation otherwise.
    #[default]
    Auto,
    /// KVM, or an error.
    Kvm,
    /// QEMU's translator, on any machine.
    Tcg,
}

impl FromStr for AccelChoice {
    type Err = ();

    /// Parses `auto`, `kvm` or `tcg`.
    ///
    /// # Errors
    /// It is none of these.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(()),
        }
    }
}

impl QemuSettings {
    pub(in crate::vm) fn new(values: &Values<'_>) -> Result<Self, BadValue> {
        Ok(Self {
            binary: values.path(&BINARY),
            accel: values.parse(&ACCEL)?.unwrap_or_default(),
        })
    }
}

#[async_trait]
impl Backend for QemuSettings {
    fn kind(&self) -> VmmKind {
        KIND
    }

    fn process_names(&self) -> &'static [&'static str] {
        PROCESS_NAMES
    }

    async fn detect(&self, surroundings: &Surroundings) -> Result<Box<dyn Installed>, Absence> {
        let found = QemuBinary::find(self.binary.as_deref()).await;
        let binary = found.map_err(|error| Absence::of_program(error, self.binary.is_some()))?;
        Ok(Box::new(InstalledQemu {
            binary,
            accel: self.accel,
            surroundings: surroundings.clone(),
        }))
    }
}

struct InstalledQemu {
    binary: QemuBinary,
    accel: AccelChoice,
    surroundings: Surroundings,
}

#[async_trait]
impl Installed for InstalledQemu {
    async fn open(self: Box<Self>) -> Result<Vec<Candidate>, VmmError> {
        let accel = self.accel;
        let opened = spawn_blocking(move || self.translated()).await;
        let translated =
            opened.map_err(|error| VmmError::io("look for a jail of QEMU")(error.into()))??;
        let accelerated = |trust| Candidate {
            vmm: Arc::new(translated.clone().accelerated_by(Accelerator::Kvm)),
            trust,
        };
        let translated = || Candidate {
            vmm: Arc::new(translated.clone()),
            trust: Trust::Sure,
        };
        Ok(match accel {
            AccelChoice::Kvm => vec![accelerated(Trust::Sure)],
            AccelChoice::Auto if kvm::open().is_ok() => {
                vec![accelerated(Trust::UntilItBoots), translated()]
            }
            AccelChoice::Auto | AccelChoice::Tcg => vec![translated()],
        })
    }
}

impl InstalledQemu {
    /// Creates the backend with translation, in its jail. Blocks.
    fn translated(self) -> Result<Qemu, VmmError> {
        let jail = self.jail()?;
        let Surroundings {
            run_path, rundown, ..
        } = &self.surroundings;
        let qemu = Qemu::new(self.binary, Accelerator::Tcg, run_path)?;
        Ok(qemu.ending_in(rundown).jailed(jail))
    }

    /// Finds the jail. Logs a warning if it is weaker than this user should have.
    fn jail(&self) -> Result<Jail, VmmError> {
        let Surroundings {
            jail: choice,
            jail_users,
            ..
        } = &self.surroundings;
        if *choice == JailChoice::Off {
            return Ok(Jail::off());
        }
        let jail = Jail::find(&self.binary.path, jail_users.clone())?;
        if *choice == JailChoice::On {
            return jail.or_error(&self.binary.path);
        }
        if let Some(reason) = jail.why_no_stronger() {
            tracing::warn!(
                "QEMU runs with a weaker jail: {reason} (`ironclaw doctor` lists what is in force, \
                 `jail=off` silences this)"
            );
        }
        Ok(jail)
    }
}
