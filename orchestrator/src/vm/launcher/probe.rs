//! Probes whether KVM runs our guest here, by booting it: a /dev/kvm that can be opened proves
//! little. Some clouds emulate parts of it on which a stock kernel hangs.
//!
//! The result is kept beside the templates, so that each combination of host, hypervisor and
//! template is probed once.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::template::{Sha256Digest, Template};
use crate::vm::config::Config;
use crate::vm::launcher::LaunchError;
use crate::vm::launcher::boot::{self, boot_once};
use crate::vm::launcher::root_disk::RootDisk;
use crate::vm::snapshot::{Host, SnapshotError};
use crate::vm::vmm::{Machine, Ram, Vmm, VmmError, VmmIdentity, VmmKind};

/// Timeout of the boot: ten times what it takes under KVM on an idle machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit of the bytes read of a result.
const MAX_BYTES: u64 = 4096;

/// The combination that a result holds for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeKey {
    cpu_model: String,
    kernel_release: String,
    vmm: VmmIdentity,
    /// What boots: templates that differ in their roots alone are alike in this.
    kernel: Sha256Digest,
    initramfs: Option<Sha256Digest>,
    machine: Machine,
}

/// Limit of the characters kept of a reason.
const MAX_REASON: usize = 300;

/// Whether a template boots under a hypervisor here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It boots.
    Boots,
    /// It does not boot.
    Fails {
        /// The reason.
        reason: String,
        /// The evidence for that.
        known: Known,
    },
}

/// The evidence that a template does not boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// A boot has just failed.
    Now,
    /// A boot of an earlier process failed, which reported it.
    Before,
    /// None: the boot failed for another reason, and the next process tries again.
    Not,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeResult {
    #[serde(rename = "question")]
    key: ProbeKey,
    works: bool,
    /// The reason if it does not.
    #[serde(default)]
    reason: String,
}

/// Returns the name of the file, beside the templates, with the result for a hypervisor.
#[must_use]
pub fn probe_file(vmm: &VmmKind) -> String {
    format!(".kvm-probe-{vmm}.json")
}

/// Probes whether `template` boots under `vmm`, which runs guests by KVM; calls `trying` before a
/// boot.
pub(super) async fn boots(
    vmm: &dyn Vmm,
    config: &Config,
    template: &Template,
    trying: impl FnOnce(),
) -> Verdict {
    let host = match Host::current(None) {
        Ok(host) => host,
        Err(error) => return fails(in_a_line(&SnapshotError::from(error).into()), Known::Not),
    };
    let machine = RootDisk::machine(template, config.machine);
    let manifest = template.manifest();
    let key = ProbeKey {
        cpu_model: host.cpu_model,
        kernel_release: host.kernel_release,
        vmm: vmm.identity().clone(),
        kernel: manifest.kernel.sha256,
        initramfs: manifest.initramfs.as_ref().map(|it| it.sha256),
        machine,
    };
    let path = config.template_path.join(probe_file(&key.vmm.kind));
    if let Some(result) = recall(&path).filter(|result| result.key == key) {
        return match result.works {
            true => Verdict::Boots,
            false => fails(result.reason, Known::Before),
        };
    }
    trying();
    let root_disk = match RootDisk::new(template, machine) {
        Ok(root_disk) => root_disk,
        Err(error) => return fails(in_a_line(&error), Known::Not),
    };
    let spec = boot::spec(template, machine, root_disk.as_ref(), Ram::Private);
    let reason = match boot_once(vmm, &spec, BOOT_TIMEOUT).await {
        Ok(_) => None,
        Err(error) if is_conclusive(vmm, &error) => {
            tracing::info!(%error, "KVM does not run the guest");
            Some(in_a_line(&error))
        }
        Err(error) => return fails(in_a_line(&error), Known::Not),
    };
    let result = ProbeResult {
        key,
        works: reason.is_none(),
        reason: reason.clone().unwrap_or_default(),
    };
    match remember(&path, &result) {
        Ok(()) => {}
        // Root's templates, or a read-only file system.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            tracing::debug!(path = %path.display(), %error, "KVM will be probed again");
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "KVM will be probed again"),
    }
    match reason {
        None => Verdict::Boots,
        Some(reason) => fails(reason, Known::Now),
    }
}

fn fails(reason: String, known: Known) -> Verdict {
    Verdict::Fails { reason, known }
}

/// Formats an error in one line, with the last message of the VMM, and without the guest's console.
fn in_a_line(error: &LaunchError) -> String {
    let mut text = String::new();
    let first: Option<&dyn std::error::Error> = Some(error);
    for error in std::iter::successors(first, |error| error.source()) {
        let error = error.to_string();
        // Cuts off the console, which begins there.
        let line = error.lines().next().unwrap_or_default();
        let line = line
            .split_once("; it printed")
            .map_or(line, |(line, _)| line);
        let between = if text.is_empty() { "" } else { ": " };
        text.push_str(between);
        text.push_str(line);
    }
    if let Some(word) = error
        .exit()
        .and_then(|exit| exit.words.trim().lines().last())
    {
        text.push_str(&format!(" ({word})"));
    }
    text.chars().take(MAX_REASON).collect()
}

/// Returns whether the guest or the VMM is incompatible with KVM. Other failures prove nothing: a
/// full disk, a tap device in use, a VMM that was killed for its memory, or a process that ended
/// before it opened the device.
fn is_conclusive(vmm: &dyn Vmm, error: &LaunchError) -> bool {
    let says_nothing = matches!(
        error,
        LaunchError::Vmm(VmmError::Died { exit, operation })
            if exit.status.contains("SIGKILL") || vmm.precedes_kvm(operation)
    );
    boot::did_not_come_up(error) && !says_nothing
}

fn recall(path: &Path) -> Option<ProbeResult> {
    use std::io::Read as _;
    let mut json = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_BYTES)
        .read_to_end(&mut json)
        .ok()?;
    serde_json::from_slice(&json).ok()
}

fn remember(path: &Path, result: &ProbeResult) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer_pretty(&mut file, result)?;
    file.flush()?;
    fs::set_permissions(file.path(), Permissions::from_mode(0o600))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::launcher::fake::{self, Boot, Fake};

    /// Probes twice with these boots; returns the evidence of each probe, `None` for a success, and
    /// the number of boots left.
    async fn asked_twice(faults: [Boot; 2]) -> (Option<Known>, Option<Known>, usize) {
        let (directory, template) = fake::template();
        let variable = |name: &str| match name {
            "IRONCLAW_TEMPLATE_PATH" => Some(directory.path().into()),
            _ => None,
        };
        let config = Config::from_vars(variable, true).unwrap();
        let vmm = Fake::new(faults);
        let mut asked = [Known::Not; 2].map(Some);
        for known in &mut asked {
            *known = match boots(&vmm, &config, &template, || {}).await {
                Verdict::Boots => None,
                Verdict::Fails { reason, known } => {
                    assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
                    Some(known)
                }
            };
        }
        (asked[0], asked[1], vmm.left())
    }

    #[tokio::test]
    async fn a_guest_that_came_up_is_remembered() {
        let asked = asked_twice([Boot::Answers, Boot::Silent]).await;
        assert_eq!(asked, (None, None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_guest_and_a_vmm_that_ends_by_itself_are_remembered() {
        for fault in [Boot::Silent, Boot::Dies] {
            let asked = asked_twice([fault, Boot::Answers]).await;
            let expected = (Some(Known::Now), Some(Known::Before), 1);
            assert_eq!(asked, expected, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn an_inconclusive_probe_is_repeated() {
        for fault in [Boot::Fails, Boot::IsKilled, Boot::OtherVersion] {
            let asked = asked_twice([fault, Boot::Answers]).await;
            assert_eq!(asked, (Some(Known::Not), None, 0), "{fault:?}");
        }
    }

    fn result(works: bool) -> ProbeResult {
        let key = ProbeKey {
            cpu_model: "CPU".to_owned(),
            kernel_release: "6.1".to_owned(),
            vmm: VmmIdentity {
                kind: VmmKind::new("QEMU"),
                version: "7.2".to_owned(),
                accelerator: "kvm".to_owned(),
                devices: None,
            },
            kernel: Sha256Digest::of("kernel"),
            initramfs: None,
            machine: Machine {
                memory_mib: 128,
                vcpus: 1,
                disk_mib: None,
            },
        };
        ProbeResult {
            key,
            works,
            reason: String::new(),
        }
    }

    #[test]
    fn a_result_is_kept_private_and_the_last_one_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("result.json");
        assert!(recall(&path).is_none());
        for works in [true, false] {
            remember(&path, &result(works)).unwrap();
            let kept = recall(&path).unwrap();
            assert_eq!((kept.works, kept.key), (works, result(works).key));
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "garbage").unwrap();
        assert!(recall(&path).is_none(), "and the probe runs again");
    }
}
