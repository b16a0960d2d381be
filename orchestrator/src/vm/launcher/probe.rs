//! Whether KVM runs our guest here: found out by trying, since a /dev/kvm that can be opened
//! proves little. Some clouds emulate parts of it on which a stock kernel hangs.
//!
//! The answer is kept beside the templates, so that it is asked once for each combination of
//! host, hypervisor and template.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::template::{Template, TemplateHash};
use crate::vm::config::Config;
use crate::vm::launcher::LaunchError;
use crate::vm::launcher::boot::{self, boot_once};
use crate::vm::snapshot::{Host, SnapshotError};
use crate::vm::vmm::{Machine, Ram, Vmm, VmmError, VmmIdentity, VmmKind};

/// Ten times what a boot takes under KVM on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of it that are read.
const MAX_BYTES: u64 = 4096;

/// What an answer holds for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    cpu_model: String,
    kernel_release: String,
    vmm: VmmIdentity,
    template: TemplateHash,
    machine: Machine,
}

/// Most characters of a reason that are kept: one line says what there is to say.
const REASON: usize = 300;

/// Whether a template boots under a hypervisor here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Boots,
    /// It does not.
    Fails {
        /// Why not.
        reason: String,
        /// How that is known.
        known: Known,
    },
}

/// How it is known that a template does not boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// A boot has just shown it.
    Now,
    /// An earlier process found it out, and has told.
    Before,
    /// It is not: the boot failed by something else, and is tried again by the next process.
    Not,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    question: Question,
    works: bool,
    /// Why it does not.
    #[serde(default)]
    reason: String,
}

/// The name of the file beside the templates that keeps what was found out of a hypervisor.
#[must_use]
pub fn probe_file(vmm: &VmmKind) -> String {
    format!(".kvm-probe-{vmm}.json")
}

/// Whether `template` boots under `vmm`, which runs guests by KVM.
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
    let question = Question {
        cpu_model: host.cpu_model,
        kernel_release: host.kernel_release,
        vmm: vmm.identity().clone(),
        template: template.hash().clone(),
        machine: config.machine,
    };
    let path = config.template_path.join(probe_file(&question.vmm.kind));
    if let Some(answer) = recall(&path).filter(|answer| answer.question == question) {
        return match answer.works {
            true => Verdict::Boots,
            false => fails(answer.reason, Known::Before),
        };
    }
    trying();
    let spec = boot::spec(template, config.machine, Ram::Private);
    let reason = match boot_once(vmm, &spec, PATIENCE).await {
        Ok(_) => None,
        Err(error) if proves_it(vmm, &error) => {
            tracing::info!(%error, "KVM does not run the guest");
            Some(in_a_line(&error))
        }
        Err(error) => return fails(in_a_line(&error), Known::Not),
    };
    let answer = Answer {
        question,
        works: reason.is_none(),
        reason: reason.clone().unwrap_or_default(),
    };
    match remember(&path, &answer) {
        Ok(()) => {}
        // Root's templates, or those of a read-only file system.
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

/// What failed, with what the VMM said last, and without what the guest did.
fn in_a_line(error: &LaunchError) -> String {
    let mut text = String::new();
    let first: Option<&dyn std::error::Error> = Some(error);
    for error in std::iter::successors(first, |error| error.source()) {
        let error = error.to_string();
        // Which begins behind it.
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
    text.chars().take(REASON).collect()
}

/// Whether it is the guest or the VMM that does not get along with KVM. A full disk, a tap device
/// that is in use, who kills a VMM for its memory, or a process that ends before it has opened the
/// device say nothing about that.
fn proves_it(vmm: &dyn Vmm, error: &LaunchError) -> bool {
    let says_nothing = matches!(
        error,
        LaunchError::Vmm(VmmError::Died { exit, operation })
            if exit.status.contains("SIGKILL") || vmm.precedes_kvm(operation)
    );
    boot::did_not_come_up(error) && !says_nothing
}

fn recall(path: &Path) -> Option<Answer> {
    use std::io::Read as _;
    let mut json = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_BYTES)
        .read_to_end(&mut json)
        .ok()?;
    serde_json::from_slice(&json).ok()
}

fn remember(path: &Path, answer: &Answer) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer_pretty(&mut file, answer)?;
    file.flush()?;
    fs::set_permissions(file.path(), Permissions::from_mode(0o600))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::launcher::fake::{self, Boot, Fake};

    /// What is found out by one boot after the other, `None` if it boots; the second one only if it
    /// is asked again.
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

    fn answer(works: bool) -> Answer {
        let question = Question {
            cpu_model: "CPU".to_owned(),
            kernel_release: "6.1".to_owned(),
            vmm: VmmIdentity {
                kind: VmmKind::new("QEMU"),
                version: "7.2".to_owned(),
                accelerator: "kvm".to_owned(),
                devices: None,
            },
            template: "ab".repeat(32).parse().unwrap(),
            machine: Machine {
                memory_mib: 128,
                vcpus: 1,
            },
        };
        Answer {
            question,
            works,
            reason: String::new(),
        }
    }

    #[test]
    fn an_answer_is_kept_private_and_the_last_one_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("answer.json");
        assert!(recall(&path).is_none());
        for works in [true, false] {
            remember(&path, &answer(works)).unwrap();
            let kept = recall(&path).unwrap();
            assert_eq!((kept.works, kept.question), (works, answer(works).question));
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "garbage").unwrap();
        assert!(recall(&path).is_none(), "and the probe runs again");
    }
}
