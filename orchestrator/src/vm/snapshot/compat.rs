//! Compares a snapshot with the VMM, machine and host that would restore it.

use super::host::Host;
use super::manifest::{Description, Manifest};
use crate::template::TemplateHash;
use crate::vm::vmm::{Machine, VmmIdentity, VmmKind};

/// The properties that a snapshot must have to be restored here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirements {
    /// The template of the clones.
    pub template: TemplateHash,
    /// The VMM that will restore.
    pub vmm: VmmIdentity,
    /// The machine of the clones.
    pub machine: Machine,
    /// The host that will restore.
    pub host: Host,
}

/// The tolerance between two TSC frequencies, in parts per million.
///
/// The kernel measures the frequency anew at each boot, so two readings of one clock differ a
/// little. 500 ppm is also what NTP can correct, and so what a guest's clock can bear.
pub const TSC_TOLERANCE_PPM: u64 = 500;

/// The first difference between a snapshot and the [`Requirements`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Another kernel, image, command line or machine.
    #[error("its template is {snapshot}, needed is {required}")]
    Template {
        /// In the manifest.
        snapshot: TemplateHash,
        /// In the requirements.
        required: TemplateHash,
    },
    /// State files of different hypervisors are incompatible.
    #[error("it was made by {snapshot}, needed is {required}")]
    VmmKind {
        /// In the manifest.
        snapshot: VmmKind,
        /// In the requirements.
        required: VmmKind,
    },
    /// State formats are tied to the exact version.
    #[error("it was made by {kind} {snapshot}, installed is {required}")]
    VmmVersion {
        /// The VMM.
        kind: VmmKind,
        /// In the manifest.
        snapshot: String,
        /// In the requirements.
        required: String,
    },
    /// A vCPU's state depends on the accelerator that ran it.
    #[error("its accelerator is {snapshot}, needed is {required}")]
    Accelerator {
        /// In the manifest.
        snapshot: String,
        /// In the requirements.
        required: String,
    },
    /// A guest knows its devices by name and caches what it read from them.
    #[error("it has other devices or another CPU template than the settings")]
    Devices,
    /// The memory file is the machine's RAM.
    #[error("its memory is {snapshot} MiB, needed are {required} MiB")]
    Memory {
        /// In the manifest, in MiB.
        snapshot: u32,
        /// In the requirements, in MiB.
        required: u32,
    },
    /// The state file has a fixed number of vCPUs.
    #[error("it has {snapshot} vCPUs, needed are {required}")]
    Vcpus {
        /// In the manifest.
        snapshot: u8,
        /// In the requirements.
        required: u8,
    },
    /// The guest knows the size of its disk.
    #[error("its disk has {}, needed are {}", mib(*snapshot), mib(*required))]
    Disk {
        /// In the manifest, in MiB.
        snapshot: Option<u32>,
        /// In the requirements, in MiB.
        required: Option<u32>,
    },
    /// The guest uses the features of the CPU it was booted on.
    #[error("it was made on the CPU {snapshot:?}, this one is {required:?}")]
    CpuModel {
        /// In the manifest.
        snapshot: String,
        /// In the requirements.
        required: String,
    },
    /// KVM's state depends on the kernel that saved it.
    #[error("it was made under the host kernel {snapshot}, this one is {required}")]
    KernelRelease {
        /// In the manifest.
        snapshot: String,
        /// In the requirements.
        required: String,
    },
    /// The guest uses the frequency of the TSC it was booted on.
    #[error("it was made at a TSC frequency of {}, this one's is {}", khz(*snapshot), khz(*required))]
    Tsc {
        /// In the manifest, in kHz.
        snapshot: Option<u32>,
        /// In the requirements, in kHz.
        required: Option<u32>,
    },
}

fn mib(size: Option<u32>) -> String {
    format!("{} MiB", size.unwrap_or(0))
}

fn khz(frequency: Option<u32>) -> String {
    frequency.map_or_else(|| "unknown".to_owned(), |khz| format!("{khz} kHz"))
}

impl Requirements {
    /// Describes a snapshot made here, which meets these requirements.
    #[must_use]
    pub fn describe(self, generation: u64) -> Description {
        let Self {
            template,
            vmm,
            machine,
            host,
        } = self;
        Description {
            generation,
            template,
            vmm,
            machine,
            host,
        }
    }

    /// Compares with the manifest alone.
    ///
    /// # Errors
    ///
    /// The first difference, in the order of the variants of [`Mismatch`].
    pub fn check(&self, manifest: &Manifest) -> Result<(), Mismatch> {
        macro_rules! same {
            ($field:ident . $sub:ident, $variant:ident $(, $key:ident: $value:expr)?) => {
                if manifest.$field.$sub != self.$field.$sub {
                    return Err(Mismatch::$variant {
                        $($key: $value,)?
                        snapshot: manifest.$field.$sub.clone(),
                        required: self.$field.$sub.clone(),
                    });
                }
            };
        }
        if manifest.template != self.template {
            return Err(Mismatch::Template {
                snapshot: manifest.template,
                required: self.template,
            });
        }
        same!(vmm.kind, VmmKind);
        same!(vmm.version, VmmVersion, kind: self.vmm.kind.clone());
        same!(vmm.accelerator, Accelerator);
        if manifest.vmm.devices != self.vmm.devices {
            return Err(Mismatch::Devices);
        }
        same!(machine.memory_mib, Memory);
        same!(machine.vcpus, Vcpus);
        same!(machine.disk_mib, Disk);
        same!(host.cpu_model, CpuModel);
        same!(host.kernel_release, KernelRelease);
        let (snapshot, required) = (manifest.host.tsc_khz, self.host.tsc_khz);
        if same_tsc(snapshot, required) {
            Ok(())
        } else {
            Err(Mismatch::Tsc { snapshot, required })
        }
    }
}

/// Compares frequencies. An unknown one only equals another unknown one: that a guest's clock stays
/// right must be certain.
fn same_tsc(a: Option<u32>, b: Option<u32>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            u64::from(a.abs_diff(b)) * 1_000_000 <= TSC_TOLERANCE_PPM * u64::from(a.min(b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::snapshot::Sha256Digest;
    use crate::vm::snapshot::manifest::tests::{manifest, requirements};

    #[test]
    fn the_maker_of_a_snapshot_may_restore_it() {
        assert_eq!(requirements().check(&manifest()), Ok(()));
    }

    #[test]
    fn each_field_is_compared_and_named_with_both_values() {
        type Change = fn(&mut Requirements);
        let cases: [(Change, &[&str]); 11] = [
            (
                |r| r.template = "ee".repeat(32).parse().unwrap(),
                &["template", "eeee", "abab"],
            ),
            (
                |r| r.vmm.kind = VmmKind::new("Firecracker"),
                &["QEMU", "Firecracker"],
            ),
            (|r| r.vmm.version = "8.0".into(), &["QEMU", "7.2.19", "8.0"]),
            (
                |r| r.vmm.accelerator = "kvm".into(),
                &["accelerator", "tcg", "kvm"],
            ),
            (
                |r| r.vmm.devices = Some(Sha256Digest::from([1; 32])),
                &["devices", "CPU template"],
            ),
            (
                |r| r.machine.memory_mib = 256,
                &["memory", "1 MiB", "256 MiB"],
            ),
            (|r| r.machine.vcpus = 4, &["vCPUs", "has 2", "are 4"]),
            (
                |r| r.machine.disk_mib = Some(64),
                &["disk", "0 MiB", "64 MiB"],
            ),
            (
                |r| r.host.cpu_model = "Other".into(),
                &["CPU", "Some CPU", "Other"],
            ),
            (
                |r| r.host.kernel_release = "6.2".into(),
                &["kernel", "6.1.0-test", "6.2"],
            ),
            (
                |r| r.host.tsc_khz = None,
                &["TSC", "2000000 kHz", "unknown"],
            ),
        ];
        for (change, words) in cases {
            let mut required = requirements();
            change(&mut required);
            let text = required.check(&manifest()).unwrap_err().to_string();
            for word in words {
                assert!(text.contains(word), "{text:?} should say {word:?}");
            }
        }
    }

    #[test]
    fn tsc_frequencies_are_the_same_up_to_the_tolerance_and_not_beyond() {
        assert!(same_tsc(Some(2_000_000), Some(2_001_000)));
        assert!(same_tsc(Some(2_001_000), Some(2_000_000)));
        assert!(!same_tsc(Some(2_000_000), Some(2_001_001)));
        assert!(!same_tsc(Some(0), Some(u32::MAX)));
        assert!(same_tsc(None, None));
        assert!(!same_tsc(None, Some(1)));
    }
}
