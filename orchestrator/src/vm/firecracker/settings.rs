//! Firecracker's settings, and its detection on this host.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use ironclaw_settings::{BadValue, Setting, Values};
use rustix::process::geteuid;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::jail::Jailer;
use super::setting_names::{BINARY, CPU_TEMPLATE, JAILER_BINARY, TAPS};
use super::{Confined, Devices, Firecracker, FirecrackerBinary, JAILER, KIND, KVM, PROGRAM, Tap};
use crate::vm::backend::{Absence, Backend, Candidate, Installed, JailChoice, Surroundings, Trust};
use crate::vm::kvm;
use crate::vm::vmm::{VmmError, VmmKind};

/// All settings of this backend.
pub(in crate::vm) const SETTINGS: &[Setting] = &[BINARY, JAILER_BINARY, TAPS, CPU_TEMPLATE];

/// The prefixes of its process names.
pub(in crate::vm) const PROCESS_NAMES: &[&str] = &[PROGRAM, JAILER];

/// Its accelerators.
pub(in crate::vm) const ACCELERATORS: &[&str] = &[KVM];

/// The settings of Firecracker, beside those of all backends.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct FirecrackerSettings {
    /// The path of the Firecracker binary, if not the one on PATH.
    pub binary: Option<PathBuf>,
    /// The path of the jailer, if not the one on PATH.
    pub jailer: Option<PathBuf>,
    /// The tap devices, one for each VM; without any, VMs have no network.
    pub taps: Taps,
    /// The file of a CPU template.
    pub cpu_template: Option<PathBuf>,
}

/// A list of tap devices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Taps(pub Vec<Tap>);

impl FromStr for Taps {
    type Err = ();

    /// Parses [`Tap`]s separated by commas.
    ///
    /// # Errors
    /// An entry is no tap device.
    fn from_str(text: &str) -> Result<Self, ()> {
        let taps = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self(taps))
    }
}

impl FirecrackerSettings {
    pub(in crate::vm) fn new(values: &Values<'_>) -> Result<Self, BadValue> {
        Ok(Self {
            binary: values.path(&BINARY),
            jailer: values.path(&JAILER_BINARY),
            taps: values.parse(&TAPS)?.unwrap_or_default(),
            cpu_template: values.path(&CPU_TEMPLATE),
        })
    }

    /// Opens the backend. Blocks.
    fn open(self, binary: FirecrackerBinary, of: &Surroundings) -> Result<Firecracker, VmmError> {
        let jailer = self.find_jailer(of)?;
        let devices = Devices::new(self.cpu_template.as_deref(), self.taps.0, jailer.is_some())?;
        let confined = (jailer.is_none() && of.jail != JailChoice::Off)
            .then(|| Confined::find(&binary.path, &of.run_path, &of.read_paths));
        let firecracker =
            Firecracker::new(binary, &of.run_path, jailer, devices)?.ending_in(&of.rundown);
        let Some(confined) = confined else {
            return Ok(firecracker);
        };
        if let Some(reason) = confined.why_no_stronger() {
            tracing::warn!(
                "Firecracker can read and write files of this user: {reason} (`ironclaw doctor` lists \
                 what is in force, `jail=off` silences this)"
            );
        }
        Ok(firecracker.confined(confined))
    }

    /// Finds the jailer, if VMs are to be jailed: always as root, unless the settings say
    /// otherwise.
    fn find_jailer(&self, of: &Surroundings) -> Result<Option<Jailer>, VmmError> {
        match of.jail {
            JailChoice::Off => Ok(None),
            // Without root, the confinement needs no jailer.
            JailChoice::Auto if !geteuid().is_root() => Ok(None),
            JailChoice::On | JailChoice::Auto => {
                Jailer::find(self.jailer.as_deref(), of.jail_users.clone()).map(Some)
            }
        }
    }

    /// Converts an error of the detection to the reason of the backend's absence.
    fn absence(&self, error: VmmError, jail: JailChoice) -> Absence {
        match &error {
            VmmError::Unusable { program, .. } if *program == JAILER => {
                Absence::of_program(error, jail == JailChoice::On)
            }
            VmmError::NotInstalled { program, .. } | VmmError::Unusable { program, .. }
                if *program == PROGRAM =>
            {
                Absence::of_program(error, self.binary.is_some())
            }
            // A jailer that is required, a device named by a setting, or the host.
            _ => Absence::Refused(error),
        }
    }
}

#[async_trait]
impl Backend for FirecrackerSettings {
    fn kind(&self) -> VmmKind {
        KIND
    }

    fn process_names(&self) -> &'static [&'static str] {
        PROCESS_NAMES
    }

    fn insists(&self) -> Option<&'static str> {
        let set = [
            (TAPS, !self.taps.0.is_empty()),
            (CPU_TEMPLATE, self.cpu_template.is_some()),
        ];
        set.into_iter()
            .find(|(_, set)| *set)
            .map(|(setting, _)| setting.key)
    }

    async fn detect(&self, surroundings: &Surroundings) -> Result<Box<dyn Installed>, Absence> {
        kvm::open().map_err(|error| Absence::Host(error.to_string()))?;
        let found = async {
            let binary = FirecrackerBinary::find(self.binary.as_deref()).await?;
            let (settings, of) = (self.clone(), surroundings.clone());
            let opened = spawn_blocking(move || settings.open(binary, &of)).await;
            opened.map_err(|error| VmmError::io("look for Firecracker")(error.into()))?
        };
        match found.await {
            Ok(firecracker) => Ok(Box::new(InstalledFirecracker(firecracker))),
            Err(error) => Err(self.absence(error, surroundings.jail)),
        }
    }
}

struct InstalledFirecracker(Firecracker);

#[async_trait]
impl Installed for InstalledFirecracker {
    async fn open(self: Box<Self>) -> Result<Vec<Candidate>, VmmError> {
        Ok(vec![Candidate {
            vmm: Arc::new(self.0),
            trust: Trust::UntilItBoots,
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_somebody_asked_for_by_name_has_to_be_there() {
        let unusable = |program| VmmError::Unusable {
            program,
            path: program.into(),
            reason: "of its age".to_owned(),
        };
        let missing = |program, path: Option<&str>| VmmError::NotInstalled {
            program,
            path: path.map(Into::into),
            hint: "",
        };
        let nothing = FirecrackerSettings::default();
        let named = FirecrackerSettings {
            binary: Some("/x".into()),
            ..FirecrackerSettings::default()
        };
        let auto = JailChoice::Auto;
        for (settings, jail, error, is_told) in [
            (&nothing, auto, missing(PROGRAM, None), false),
            (&nothing, auto, unusable(PROGRAM), false),
            (&nothing, auto, unusable(JAILER), false),
            (&named, auto, missing(PROGRAM, Some("/x")), true),
            (&named, auto, unusable(PROGRAM), true),
            (&nothing, auto, unusable("tap device"), true),
            (&nothing, auto, missing(JAILER, None), true),
            (&nothing, JailChoice::On, unusable(JAILER), true),
        ] {
            let text = error.to_string();
            let absence = settings.absence(error, jail);
            let refused = matches!(absence, Absence::Refused(_));
            assert_eq!(refused, is_told, "{text} {jail:?}");
        }
    }
}
