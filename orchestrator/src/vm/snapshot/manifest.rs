//! The manifest of a snapshot, `manifest.json`.

use std::collections::BTreeMap;

use ironclaw_store::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::template::TemplateHash;
use crate::untrusted;

use super::files::{FileRecord, FileRole, MAX_DISKS};
use super::format2::{self, Former};
use super::host::Host;
use super::id::SnapshotId;
use super::kind::Kind;
use crate::vm::vmm::{DiskId, Machine, VmmIdentity};

/// The version of the manifest's format. Raised with each change that an older reader would
/// misunderstand or refuse. Format 2, which had a single [kind](Kind) and two files, is read, too.
pub const FORMAT: u32 = 3;

/// Limit of a manifest's size in bytes; it has about 1 KiB.
pub(super) const MAX_BYTES: u64 = 64 << 10;
/// Limit of a text in bytes; CPU models and versions have less than 100.
const MAX_TEXT: usize = 256;

/// The description of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// [`FORMAT`], even if read from an older format.
    pub format: u32,
    /// The snapshot's name, which is also in its directory's name.
    pub id: SnapshotId,
    /// The kind of snapshot.
    pub kind: Kind,
    /// The snapshot that its VM was restored from, if any. This one does not need that one's files.
    pub parent: Option<SnapshotId>,
    /// The number of the pool's refresh that made it; for a checkpoint, that of its VM's snapshot.
    pub generation: u64,
    /// The template of the guest.
    pub template: TemplateHash,
    /// The VMM that ran the guest.
    pub vmm: VmmIdentity,
    /// The size of the guest.
    pub machine: Machine,
    /// The host that ran the guest.
    pub host: Host,
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`) in which it was published.
    pub(super) boot_id: Uuid,
    /// The time of publication.
    pub created: Timestamp,
    /// The records of its files: memory and state, and up to [`MAX_DISKS`] disks.
    pub files: BTreeMap<FileRole, FileRecord>,
}

/// The part of a [`Manifest`] that the maker of a snapshot provides; the rest is derived from the
/// files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The number of the pool's refresh that made it.
    pub generation: u64,
    /// The template of the guest.
    pub template: TemplateHash,
    /// The VMM that ran the guest.
    pub vmm: VmmIdentity,
    /// The size of the guest; the memory file must have the size of its memory.
    pub machine: Machine,
    /// The host that ran the guest.
    pub host: Host,
}

/// The part of a manifest that is fixed before anything is written.
#[derive(Debug, Clone)]
pub(super) struct Provenance {
    pub(super) id: SnapshotId,
    pub(super) kind: Kind,
    pub(super) parent: Option<SnapshotId>,
}

impl Description {
    pub(super) fn into_manifest(
        self,
        provenance: Provenance,
        boot_id: Uuid,
        files: BTreeMap<FileRole, FileRecord>,
    ) -> Manifest {
        let Provenance { id, kind, parent } = provenance;
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
            kind,
            parent,
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

    /// Returns the first violated rule, if any: a written manifest must be readable again.
    pub(super) fn check(&self) -> Result<(), String> {
        check(&self.vmm, self.machine, &self.host)
    }
}

impl Provenance {
    /// See [`Description::check`].
    pub(super) fn check(&self) -> Result<(), String> {
        check_kind(&self.kind)
    }
}

/// A base with the same two files.
impl From<Former> for Manifest {
    fn from(former: Former) -> Self {
        let Former {
            _format,
            id,
            generation,
            template,
            vmm,
            machine,
            host,
            boot_id,
            created,
            files: format2::Files { memory, vmstate },
        } = former;
        Self {
            format: FORMAT,
            id,
            kind: Kind::Base,
            parent: None,
            generation,
            template,
            vmm,
            machine,
            host,
            boot_id,
            created,
            files: BTreeMap::from([(FileRole::Memory, memory), (FileRole::VmState, vmstate)]),
        }
    }
}

impl Manifest {
    /// Parses a manifest from arbitrary `json`.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        // Reads the version first: nothing is known about another format.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        // The parser's message may repeat a name in the text.
        let invalid =
            |error: serde_json::Error| ManifestError::Invalid(untrusted::line(&error.to_string()));
        let Version { format } = serde_json::from_slice(json).map_err(invalid)?;
        let manifest: Self = match format {
            FORMAT => serde_json::from_slice(json).map_err(invalid)?,
            format2::FORMAT => serde_json::from_slice::<Former>(json)
                .map_err(invalid)?
                .into(),
            _ => return Err(ManifestError::OtherFormat(format)),
        };
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
        check_kind(&self.kind)?;
        if !self.created.is_canonical() {
            return Err("created.nanoseconds is not below one second".to_owned());
        }
        for role in [FileRole::Memory, FileRole::VmState] {
            if !self.files.contains_key(&role) {
                return Err(format!("files has no {role}"));
            }
        }
        let scratch = FileRole::Disk(DiskId::scratch());
        if self.machine.disk_mib.is_some() && !self.files.contains_key(&scratch) {
            return Err(format!("files has no {scratch}, which its machine has"));
        }
        if self.files.len() > 2 + MAX_DISKS {
            return Err(format!("files has more than {MAX_DISKS} disks"));
        }
        for (role, record) in &self.files {
            let checked = role.check(self.machine, record.bytes);
            checked.map_err(|fault| format!("files.{role}: a file that {fault}"))?;
        }
        Ok(())
    }
}

/// The reason why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ManifestError {
    /// Another format, perhaps of a newer release.
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
        check_text(field, text)?;
    }
    if machine.memory_mib == 0 || machine.vcpus == 0 {
        return Err("a machine has at least 1 MiB of memory and 1 vCPU".to_owned());
    }
    Ok(())
}

fn check_kind(kind: &Kind) -> Result<(), String> {
    let Kind::Checkpoint(checkpoint) = kind else {
        return Ok(());
    };
    check_text("kind.checkpoint.owner", &checkpoint.owner)?;
    check_text("kind.checkpoint.of", &checkpoint.of)?;
    if checkpoint.keep_until.is_some_and(|it| !it.is_canonical()) {
        return Err("kind.checkpoint.keep_until.nanoseconds is not below one second".to_owned());
    }
    Ok(())
}

/// Control characters would reach the terminal of a user who lists the snapshots.
fn check_text(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(untrusted::is_deceptive) {
        return Err(format!(
            "{field} is not 1 to {MAX_TEXT} bytes of printable text"
        ));
    }
    Ok(())
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
/// Parses a file that should be a manifest: an accepted one can be written, and is the same when
/// read again.
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
pub(super) mod tests;
