//! The optional devices of a VM: a network interface, and a CPU template.

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ironclaw_settings::Setting;
use serde::Serialize;

use super::api::{ApiError, Client, CpuConfig, NetworkInterface, NetworkOverride};
use super::setting_names::{self, CPU_TEMPLATE};
use crate::vm::vmm::VmmError;
use crate::vm::vmm::jail::claim::{self, Claim};
use ironclaw_host::regular_file;
use ironclaw_store::Sha256Digest;

/// Its name in Firecracker's API and in snapshots.
const INTERFACE: &str = "eth0";
/// Limit of the bytes of a CPU template; those that come with Firecracker have about 10 kB.
const MAX_CPU_TEMPLATE: u64 = 1 << 20;
/// Limit of the length of a network device's name (`IFNAMSIZ` of linux/if.h without the
/// terminator).
const MAX_DEVICE: usize = 15;

/// The devices that each VM of the backend gets.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Devices {
    cpu_template: Option<CpuConfig>,
    taps: Vec<Tap>,
    digest: Option<Sha256Digest>,
}

/// A tap device of this host, for one VM at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tap {
    /// The file of its network namespace, if not this process's.
    pub namespace: Option<PathBuf>,
    /// Its name.
    pub device: String,
}

impl FromStr for Tap {
    type Err = ();

    /// Parses `tap0`, or `/run/netns/vm0:tap0`.
    ///
    /// # Errors
    /// It is neither: a device has 1 to 15 letters, digits, `_`, `.` or `-`, and does not begin
    /// with a full stop; a namespace is an absolute path.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (namespace, device) = match text.rsplit_once(':') {
            None => (None, text),
            Some((namespace, device)) => (Some(PathBuf::from(namespace)), device),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_name = (1..=MAX_DEVICE).contains(&device.len())
            && device.bytes().all(fits)
            && !device.starts_with('.');
        let is_path = namespace.as_deref().is_none_or(Path::is_absolute);
        (is_name && is_path)
            .then(|| Self {
                namespace,
                device: device.to_owned(),
            })
            .ok_or(())
    }
}

/// The properties of the devices that a snapshot depends on.
#[derive(Debug, Serialize)]
struct Properties<'a> {
    cpu_template: Option<&'a CpuConfig>,
    network: bool,
}

impl Devices {
    /// Combines the CPU template in the JSON file `cpu_template` (Firecracker's
    /// docs/cpu_templates/cpu-templates.md) and a network interface for each VM on one of `taps`,
    /// if there are any. `jailed` says whether the VMs will be jailed.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if the template can't be read or is not JSON, or a tap device is not
    /// reachable for the VMs.
    pub fn new(
        cpu_template: Option<&Path>,
        taps: Vec<Tap>,
        jailed: bool,
    ) -> Result<Self, VmmError> {
        let cpu_template = cpu_template.map(read_template).transpose()?;
        for tap in &taps {
            check_reachable(tap, jailed)?;
        }
        let mut devices = Self {
            cpu_template,
            taps,
            digest: None,
        };
        if devices.cpu_template.is_some() || devices.has_network() {
            devices.digest = Some(devices.identify()?);
        }
        Ok(devices)
    }

    fn identify(&self) -> Result<Sha256Digest, VmmError> {
        let identity = Properties {
            cpu_template: self.cpu_template.as_ref(),
            network: self.has_network(),
        };
        let json = serde_json::to_vec(&identity)
            .map_err(|error| VmmError::io("describe the devices")(error.into()))?;
        Ok(Sha256Digest::of(json))
    }

    /// Returns a digest that tells these devices from others; `None` if there are none.
    pub(super) fn digest(&self) -> Option<Sha256Digest> {
        self.digest
    }

    pub(super) fn has_network(&self) -> bool {
        !self.taps.is_empty()
    }

    /// Claims a free tap device for one more VM, if VMs have a network interface.
    pub(super) fn interface(&self, run_path: &Path) -> Result<Option<Interface>, VmmError> {
        if !self.has_network() {
            return Ok(None);
        }
        let failed = || VmmError::io("get a tap device for a VM");
        let claims = claim::directory(run_path).map_err(failed())?;
        // Devices of different network namespaces may have the same name.
        let own = std::fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
        for tap in &self.taps {
            let file = tap.namespace.as_deref().and_then(Path::file_name);
            let namespace = match file {
                Some(name) => name.to_string_lossy().into_owned(),
                None => own.to_string(),
            };
            let name = format!("tap-{namespace}:{}", tap.device);
            if let Some(claim) = Claim::take(&claims, &name).map_err(failed())? {
                return Ok(Some(Interface {
                    tap: tap.clone(),
                    _claim: claim,
                }));
            }
        }
        let all = format!(
            "all {} are in use: each VM needs one, so add some to `taps`, or lower \
             `min_warm` or `max_vms`",
            self.taps.len()
        );
        Err(failed()(std::io::Error::new(
            std::io::ErrorKind::QuotaExceeded,
            all,
        )))
    }

    /// Configures the devices of a VM before its boot.
    pub(super) async fn configure(
        &self,
        api: &mut Client,
        interface: Option<&Tap>,
    ) -> Result<(), ApiError> {
        if let Some(template) = &self.cpu_template {
            api.call(template).await?;
        }
        if let Some(tap) = interface {
            api.call(&NetworkInterface {
                iface_id: INTERFACE.to_owned(),
                host_dev_name: tap.device.clone(),
                guest_mac: None,
            })
            .await?;
        }
        Ok(())
    }
}

/// A tap device claimed by one VM, until this is dropped.
#[derive(Debug)]
pub(super) struct Interface {
    tap: Tap,
    _claim: Claim,
}

impl Interface {
    pub(super) fn tap(&self) -> &Tap {
        &self.tap
    }
}

impl Tap {
    /// Returns the override that gives a clone this tap device in place of its snapshot's.
    pub(super) fn network_override(&self) -> NetworkOverride {
        NetworkOverride {
            iface_id: INTERFACE.to_owned(),
            host_dev_name: self.device.clone(),
        }
    }
}

fn read_template(path: &Path) -> Result<CpuConfig, VmmError> {
    let unusable = |error: &dyn Error| unusable("CPU template", path, &CPU_TEMPLATE, error);
    let text = regular_file::read(path, MAX_CPU_TEMPLATE).map_err(|error| unusable(&error))?;
    CpuConfig::from_json(&text).map_err(|error| unusable(&error))
}

/// Creates the error about a path from a setting.
fn unusable(program: &'static str, path: &Path, setting: &Setting, error: &dyn Error) -> VmmError {
    VmmError::Unusable {
        program,
        path: path.to_owned(),
        reason: format!("{error} (it is what `{}` names)", setting.key),
    }
}

/// # Errors
/// [`VmmError::Unusable`] if VMs, jailed or not as `jailed` says, can't reach the tap device.
fn check_reachable(tap: &Tap, jailed: bool) -> Result<(), VmmError> {
    let reason = match &tap.namespace {
        None if jailed => {
            "jailed VMs reach no tap device of this network namespace: give each one of its own, \
             as in `taps=/run/netns/vm0:tap0`, or set `jail=off`"
        }
        Some(_) if !jailed => {
            "it takes the jailer to enter a network namespace: run as root with a jailer, or name \
             tap devices of this namespace"
        }
        Some(namespace) => {
            return fs::metadata(namespace).map(drop).map_err(|error| {
                unusable("network namespace", namespace, &setting_names::TAPS, &error)
            });
        }
        None => return Ok(()),
    };
    Err(VmmError::Unusable {
        program: "tap device",
        path: tap.device.clone().into(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests;
