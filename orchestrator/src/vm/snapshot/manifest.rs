//! `manifest.json`: what a snapshot is, and what its files must be.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::template::TemplateHash;
use crate::untrusted;

use super::host::Host;
use super::id::SnapshotId;
use crate::vm::digest::Sha256Digest;
use crate::vm::vmm::{Machine, VmmIdentity};

/// Version of the manifest's format. Raised with each change that an older reader would
/// misunderstand or refuse.
pub const FORMAT: u32 = 2;

/// Most bytes of a manifest that are read; a real one has about 1 KiB.
pub(super) const MAX_BYTES: u64 = 64 << 10;
/// Most bytes of a text in a manifest; CPU models and version texts stay below 100.
const MAX_TEXT: usize = 256;
/// Most bytes of a VMM's state file, far beyond the kilobytes that machines without RAM in it
/// need, so that hashing one stays short.
pub const MAX_VMSTATE_BYTES: u64 = 64 << 20;

/// Everything that is known about a snapshot besides its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The snapshot's name, the same as its directory's.
    pub id: SnapshotId,
    /// Which refresh of the pool made it.
    pub generation: u64,
    /// What the guest was booted from.
    pub template: TemplateHash,
    /// What ran the guest.
    pub vmm: VmmIdentity,
    /// What the guest ran on.
    pub machine: Machine,
    /// Where the guest ran.
    pub host: Host,
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`) in which it was published.
    pub boot_id: Uuid,
    /// When it was published.
    pub created: Timestamp,
    /// Its files.
    pub files: Files,
}

/// What the maker of a snapshot knows about it; the rest of the [`Manifest`] follows from the
/// files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Which refresh of the pool made it.
    pub generation: u64,
    /// What the guest was booted from.
    pub template: TemplateHash,
    /// What ran the guest.
    pub vmm: VmmIdentity,
    /// What the guest ran on; the memory file must be as large as its memory.
    pub machine: Machine,
    /// Where the guest ran.
    pub host: Host,
}

/// A point in time, as exact as the host's clock; one before 1970 counts as 1970, since only
/// order and age matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: u64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// By how much a clock may be set back without making what was made before something of the future.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// More than any age at which something is replaced, and less than never.
const OVERDUE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The files beside the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The guest's RAM.
    pub memory: FileFacts,
    /// State of vCPUs and devices, in the VMM's format.
    pub vmstate: FileFacts,
}

/// What a file must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// Size in bytes, holes included.
    pub bytes: u64,
    /// SHA-256 over the SHA-256 digests of the content in blocks of 64 KiB, holes read as zeros.
    pub sha256_of_blocks: Sha256Digest,
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            unix_seconds: since.as_secs(),
            nanoseconds: since.subsec_nanos(),
        }
    }
}

impl Timestamp {
    pub(super) fn now() -> Self {
        SystemTime::now().into()
    }

    /// Time since then; `None` if it lies in the future: the clock was wrong then, or is now, and
    /// nobody knows.
    #[must_use]
    pub fn age(self) -> Option<Duration> {
        self.age_at(SystemTime::now())
    }

    fn age_at(self, now: SystemTime) -> Option<Duration> {
        let then = self.to_system_time()?;
        match now.duration_since(then) {
            Ok(age) => Some(age),
            Err(ahead) if ahead.duration() <= CLOCK_TOLERANCE => Some(Duration::ZERO),
            Err(_) => None,
        }
    }

    /// The same for who replaces what is old: what has no age is older than anything may be.
    pub(crate) fn age_or_overdue(self) -> Duration {
        self.age().unwrap_or(OVERDUE)
    }

    /// The same for `std`; `None` beyond what the host's clock can show.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let seconds = UNIX_EPOCH.checked_add(Duration::from_secs(self.unix_seconds))?;
        seconds.checked_add(Duration::from_nanos(u64::from(self.nanoseconds)))
    }
}

impl Description {
    pub(super) fn into_manifest(self, id: SnapshotId, boot_id: Uuid, files: Files) -> Manifest {
        let Self {
            generation,
            template,
            vmm,
            machine,
            host,
        } = self;
        let created = Timestamp::now();
        Manifest {
            format: FORMAT,
            id,
            generation,
            template,
            vmm,
            machine,
            host,
            boot_id,
            created,
            files,
        }
    }

    /// The first rule that a field breaks, if any: what is written must be readable again.
    pub(super) fn check(&self) -> Result<(), String> {
        check(&self.vmm, self.machine, &self.host)
    }
}

impl Manifest {
    /// The manifest in `json`, which may hold anything.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        // The version comes first: of another format nothing else is known.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        // It may repeat a name in it.
        let invalid =
            |error: serde_json::Error| ManifestError::Invalid(untrusted::line(&error.to_string()));
        let Version { format } = serde_json::from_slice(json).map_err(invalid)?;
        if format != FORMAT {
            return Err(ManifestError::OtherFormat(format));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(invalid)?;
        manifest.check().map_err(ManifestError::Invalid)?;
        Ok(manifest)
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    fn check(&self) -> Result<(), String> {
        check(&self.vmm, self.machine, &self.host)?;
        if self.created.nanoseconds >= 1_000_000_000 {
            return Err("created.nanoseconds is not below one second".to_owned());
        }
        if self.files.memory.bytes != self.machine.memory_bytes() {
            return Err("files.memory.bytes is not machine.memory_mib".to_owned());
        }
        if !(1..=MAX_VMSTATE_BYTES).contains(&self.files.vmstate.bytes) {
            return Err(format!(
                "files.vmstate.bytes is not 1 to {MAX_VMSTATE_BYTES}"
            ));
        }
        Ok(())
    }
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ManifestError {
    /// Perhaps one of a newer release.
    OtherFormat(u32),
    Invalid(String),
}

fn check(vmm: &VmmIdentity, machine: Machine, host: &Host) -> Result<(), String> {
    let texts = [
        ("vmm.version", &vmm.version),
        ("vmm.accelerator", &vmm.accelerator),
        ("host.cpu_model", &host.cpu_model),
        ("host.kernel_release", &host.kernel_release),
    ];
    for (field, text) in texts {
        // Control characters would reach the terminal of whoever lists the snapshots.
        if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(untrusted::is_deceptive) {
            return Err(format!(
                "{field} is not 1 to {MAX_TEXT} bytes of printable text"
            ));
        }
    }
    if machine.memory_mib == 0 || machine.vcpus == 0 {
        return Err("a machine has at least 1 MiB of memory and 1 vCPU".to_owned());
    }
    Ok(())
}

#[cfg(any(test, feature = "fuzzing"))]
/// A file that should be a manifest: what is taken can be written, and is the same when read again.
pub(crate) fn fuzz(json: &[u8]) {
    match Manifest::parse(json) {
        Ok(manifest) => {
            let written = manifest.to_json().ok();
            let again = written.and_then(|json| Manifest::parse(&json).ok());
            assert_eq!(again.as_ref(), Some(&manifest));
            let _ = manifest.created.age();
        }
        Err(ManifestError::Invalid(reason)) => assert_eq!(reason, untrusted::line(&reason)),
        Err(ManifestError::OtherFormat(_)) => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::compat::Requirements;
    use super::*;
    use crate::vm::vmm::VmmKind;
    use proptest::prelude::*;

    /// What is on disk. A change here needs another [`FORMAT`], or old snapshots become garbage.
    const GOLDEN: &str = r#"{
  "format": 2,
  "id": "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f",
  "generation": 3,
  "template": "abababababababababababababababababababababababababababababababab",
  "vmm": {
    "kind": "qemu",
    "version": "7.2.19",
    "accelerator": "tcg"
  },
  "machine": {
    "memory_mib": 1,
    "vcpus": 2
  },
  "host": {
    "cpu_model": "Some CPU",
    "kernel_release": "6.1.0-test",
    "tsc_khz": 2000000
  },
  "boot_id": "6f0b1c7e-2f43-4f5a-9d3c-0a1b2c3d4e5f",
  "created": {
    "unix_seconds": 1764000000,
    "nanoseconds": 5
  },
  "files": {
    "memory": {
      "bytes": 1048576,
      "sha256_of_blocks": "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"
    },
    "vmstate": {
      "bytes": 7,
      "sha256_of_blocks": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    }
  }
}
"#;

    pub(in crate::vm::snapshot) fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            id: "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f".parse().unwrap(),
            generation: 3,
            template: "ab".repeat(32).parse().unwrap(),
            vmm: VmmIdentity {
                kind: VmmKind::new("QEMU"),
                version: "7.2.19".to_owned(),
                accelerator: "tcg".to_owned(),
                devices: None,
            },
            machine: Machine {
                memory_mib: 1,
                vcpus: 2,
            },
            host: Host {
                cpu_model: "Some CPU".to_owned(),
                kernel_release: "6.1.0-test".to_owned(),
                tsc_khz: Some(2_000_000),
            },
            boot_id: "6f0b1c7e-2f43-4f5a-9d3c-0a1b2c3d4e5f".parse().unwrap(),
            created: Timestamp {
                unix_seconds: 1_764_000_000,
                nanoseconds: 5,
            },
            files: Files {
                memory: FileFacts {
                    bytes: 1 << 20,
                    sha256_of_blocks:
                        "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"
                            .parse()
                            .unwrap(),
                },
                vmstate: FileFacts {
                    bytes: 7,
                    sha256_of_blocks:
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                            .parse()
                            .unwrap(),
                },
            },
        }
    }

    pub(in crate::vm::snapshot) fn requirements() -> Requirements {
        let Manifest {
            template,
            vmm,
            machine,
            host,
            ..
        } = manifest();
        Requirements {
            template,
            vmm,
            machine,
            host,
        }
    }

    #[test]
    fn the_format_on_disk_is_the_golden_one() {
        assert_eq!(
            String::from_utf8(manifest().to_json().unwrap()).unwrap(),
            GOLDEN
        );
        assert_eq!(Manifest::parse(GOLDEN.as_bytes()), Ok(manifest()));
    }

    #[test]
    fn another_format_is_told_apart_from_garbage() {
        let newer = GOLDEN.replacen("\"format\": 2", "\"format\": 3, \"new\": [1]", 1);
        assert_eq!(
            Manifest::parse(newer.as_bytes()),
            Err(ManifestError::OtherFormat(3))
        );
    }

    #[test]
    fn a_manifest_that_breaks_a_rule_is_refused_by_name() {
        let cases = [
            ("\"vcpus\": 2", "\"vcpus\": 2, \"color\": 1", "color"),
            ("\"vcpus\": 2", "\"vcpus\": 0", "vCPU"),
            ("\"vcpus\": 2", "\"vcpus\": 256", "256"),
            (
                "\"memory_mib\": 1",
                "\"memory_mib\": 2",
                "files.memory.bytes",
            ),
            ("\"bytes\": 7", "\"bytes\": 0", "files.vmstate.bytes"),
            ("\"bytes\": 7", "\"bytes\": 67108865", "files.vmstate.bytes"),
            (
                "\"nanoseconds\": 5",
                "\"nanoseconds\": 1000000000",
                "created.nanoseconds",
            ),
            ("\"tcg\"", "\"\\u001b[2J\"", "vmm.accelerator"),
            ("\"tcg\"", "\"\"", "vmm.accelerator"),
            ("\"generation\": 3", "\"generation\": -3", "-3"),
            ("abababab", "ABABABAB", "hexadecimal"),
            ("0192f0c1", "0192F0C1", "snapshot id"),
            ("30e14955", "30E14955", "SHA-256"),
        ];
        for (from, to, word) in cases {
            assert!(GOLDEN.contains(from), "{from}");
            let Err(ManifestError::Invalid(reason)) =
                Manifest::parse(GOLDEN.replacen(from, to, 1).as_bytes())
            else {
                panic!("{to} was accepted");
            };
            assert!(reason.contains(word), "{reason:?} should say {word:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_file(json in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Manifest::parse(&json).is_err());
        }

        #[test]
        fn a_damaged_manifest_is_refused_or_still_keeps_the_rules(
            at in 0..GOLDEN.len(),
            byte: u8,
        ) {
            let mut json = GOLDEN.as_bytes().to_vec();
            json[at] = byte;
            if let Ok(manifest) = Manifest::parse(&json) {
                prop_assert_eq!(manifest.check(), Ok(()));
            }
        }
    }

    #[test]
    fn the_error_about_a_bad_manifest_has_no_terminal_escapes() {
        let json = GOLDEN.replacen("\"id\"", "\"\\u001b[2J\": 1, \"id\"", 1);
        let Err(ManifestError::Invalid(reason)) = Manifest::parse(json.as_bytes()) else {
            panic!("it is one");
        };
        assert!(
            reason.contains("[2J") && !reason.contains('\x1b'),
            "{reason:?}"
        );
    }
}
