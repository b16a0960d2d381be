//! Checks what a machine has, and lacks, to run VMs; knows no command of `ironclaw`.

#![forbid(unsafe_code)]

mod check;
mod current;
mod firecracker;
mod kvm;
mod qemu;
mod start;
mod tiers;

use std::path::PathBuf;

use anyhow::Result;
use ironclaw_console::causes;
use ironclaw_console::output::{blocking, mebibytes};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::qemu::settings::AccelChoice;
use ironclaw_orchestrator::vm::snapshot::{Entry, Kind, SnapshotStore};
use ironclaw_orchestrator::vm::{
    Config, Launcher, PassedOver, PoolError, PoolOptions, check_run_path, find_guest_agent,
    probe_file,
};
use rustix::fs::statvfs;
use serde::Serialize;

pub use check::{Check, Status};
use current::Current;
pub use current::requirements;

const HYPERVISOR: &str = "hypervisor";

/// The results of all checks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether a run would work.
    pub works: bool,
    /// The checks, in the order of a run.
    pub checks: Vec<Check>,
}

/// Checks everything; builds nothing.
pub async fn examine(config: &Config) -> Report {
    let current = current::template(config).await;
    let to_build = !matches!(current, Ok(Current::Ready(_)));
    let opened = kvm::open();
    let (mut checks, purpose) = firecracker::checks(config, &opened).await;
    checks.push(qemu::check(config, purpose).await);
    checks.extend(qemu::jail(config, purpose).await);
    checks.extend([
        kvm::check(config, &opened),
        agent(config, to_build),
        tools(to_build),
        template(&current),
    ]);
    checks.extend(snapshots(config).await);
    checks.push(run_path(config).await);
    if checks.iter().all(|check| check.status != Status::Fail) {
        checks.extend(start::checks(config).await);
    }
    let (hypervisor, launcher) = backend(config, &checks, to_build).await;
    checks.push(hypervisor);
    if let Some(launcher) = launcher {
        checks.push(tiers::check(&launcher).await);
    }
    // Last, because the hypervisor does not depend on it.
    checks.push(memory(config));
    let works = checks.iter().all(|check| check.status != Status::Fail);
    Report { works, checks }
}

fn agent(config: &Config, to_build: bool) -> Check {
    const NAME: &str = "guest agent";
    match find_guest_agent(config) {
        Ok(path) => Check::ok(NAME, path.display().to_string()),
        Err(error) if to_build => Check::fail(NAME, causes(&error), None),
        Err(error) => Check::warn(
            NAME,
            causes(&error),
            "needed only to build another template; the one on disk holds one",
        ),
    }
}

fn tools(to_build: bool) -> Check {
    const NAME: &str = "template tools";
    let missing: Vec<_> = ["apt-get", "apt-cache", "dpkg-deb"]
        .into_iter()
        .filter(|tool| which::which(tool).is_err())
        .collect();
    if missing.is_empty() {
        return Check::ok(NAME, "apt-get, apt-cache and dpkg-deb are installed");
    }
    let found = format!("not installed: {}", missing.join(", "));
    let advice = "build the template on a Debian machine and copy its directory here \
                  (IRONCLAW_TEMPLATE_PATH)";
    if to_build {
        Check::fail(NAME, found, Some(advice.to_owned()))
    } else {
        Check::warn(
            NAME,
            found,
            format!("needed only to build another template; then {advice}"),
        )
    }
}

fn template(current: &Result<Current>) -> Check {
    const NAME: &str = "template";
    match current {
        Ok(Current::Ready(template)) => {
            let release = &template.manifest().kernel.release;
            Check::ok(NAME, format!("{}, kernel {release}", template.hash()))
        }
        Ok(Current::ToBuild(why)) => Check::warn(
            NAME,
            why,
            "the next run builds it, which takes a download of some 30 MB; or run `ironclaw \
             template build` now",
        ),
        Err(error) => {
            let found = causes(error.as_ref());
            let advice = "make the directory usable, or set IRONCLAW_TEMPLATE_PATH to another";
            // Some errors name the setting themselves.
            let is_said = found.contains("IRONCLAW_TEMPLATE_PATH") || found.contains("ironclaw ");
            Check::fail(NAME, found, (!is_said).then(|| advice.to_owned()))
        }
    }
}

async fn run_path(config: &Config) -> Check {
    const NAME: &str = "run directory";
    let path = config.run_path.clone();
    match blocking(move || check_run_path(&path)).await {
        Ok(()) => Check::ok(NAME, config.run_path.display().to_string()),
        // The error has the advice.
        Err(error) => Check::fail(NAME, causes(error.as_ref()), None),
    }
}

/// Checks whether the settings leave room for a VM.
fn memory(config: &Config) -> Check {
    const NAME: &str = "memory";
    let budget = PoolOptions::from(config).budget;
    let limit = budget.limit();
    match budget.holds(config.machine.memory_mib) {
        0 => {
            let guest_mib = u64::from(config.machine.memory_mib);
            // The error has the advice.
            let error = PoolError::NoRoom { guest_mib, limit };
            Check::fail(NAME, causes(&error), None)
        }
        vms => Check::ok(
            NAME,
            format!("room for {vms} VMs at a time, in {} MiB", limit.memory_mib),
        ),
    }
}

async fn entries(config: &Config) -> Result<Vec<Entry>> {
    let path = config.snapshot_path.clone();
    blocking(move || SnapshotStore::open(path)?.list()).await
}

async fn snapshots(config: &Config) -> Vec<Check> {
    const NAME: &str = "snapshots";
    let path = config.snapshot_path.clone();
    match entries(config).await {
        Ok(entries) => {
            // Without a template or a hypervisor, which have checks of their own, none is usable.
            let required = requirements(config).await.ok().flatten();
            let usable = |entry: &&Entry| {
                entry.state.as_ref().is_ok_and(|manifest| {
                    let is_for_pools = manifest.kind == Kind::Base;
                    let required = required.as_ref().filter(|_| is_for_pools);
                    required.is_some_and(|required| required.check(manifest).is_ok())
                })
            };
            let usable = entries.iter().filter(usable).count();
            let wanted = config.pool_size;
            let found = format!("{usable} usable of {wanted} wanted, in {}", path.display());
            let count = if usable == 0 {
                Check::warn(
                    NAME,
                    found,
                    "the next run boots a guest to make one; or run `ironclaw pool warmup` now",
                )
            } else {
                Check::ok(NAME, found)
            };
            let missing = wanted.saturating_sub(usable);
            vec![count, space(config, path, missing).await]
        }
        // The error has the advice.
        Err(error) => vec![Check::fail(NAME, causes(error.as_ref()), None)],
    }
}

/// Checks whether there is disk space for all `missing` snapshots. Without space, runs share the
/// existing ones, or boot a guest each.
async fn space(config: &Config, path: PathBuf, missing: usize) -> Check {
    const NAME: &str = "disk space";
    let wanted = u64::try_from(missing).unwrap_or(u64::MAX);
    let all = config.machine.memory_bytes().saturating_mul(wanted);
    let text = path.display().to_string();
    match blocking(move || statvfs(&path)).await {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let found = format!("{} free at {text}", mebibytes(free));
            if free >= all {
                return Check::ok(NAME, found);
            }
            let needed = mebibytes(all);
            Check::warn(
                NAME,
                format!("{found}; the {missing} missing snapshots take up to {needed}"),
                "free some, or set IRONCLAW_SNAPSHOT_PATH to a directory on another file system",
            )
        }
        Err(error) => Check::fail(NAME, causes(error.as_ref()), None),
    }
}

/// Checks which hypervisor a run would use: opens the library's launcher, if that builds nothing.
async fn backend(config: &Config, checks: &[Check], to_build: bool) -> (Check, Option<Launcher>) {
    const NAME: &str = HYPERVISOR;
    if checks.iter().any(|check| check.status == Status::Fail) {
        let check = Check::fail(NAME, "none could be used, see above", None);
        return (check, None);
    }
    if to_build {
        let check = Check::warn(
            NAME,
            format!(
                "not asked, since that would build the template; {}",
                why(config)
            ),
            "run `ironclaw template build`, then this again",
        );
        return (check, None);
    }
    match Launcher::open(config, Reporter::new().progress()).await {
        Ok(launcher) => (used(config, &launcher), Some(launcher)),
        Err(error) => (Check::fail(NAME, causes(&error), None), None),
    }
}

/// Reports the hypervisor in use, and why no better one is.
fn used(config: &Config, launcher: &Launcher) -> Check {
    let vmm = launcher.vmm();
    let mut found = format!("{vmm}; {}", why(config));
    let (mut insist, mut probes) = (Vec::new(), Vec::new());
    for PassedOver { vmm, reason, .. } in launcher.passed_over() {
        found.push_str(&format!(
            "; {vmm} is not used, since it does not boot the template: {reason}"
        ));
        insist.push(if vmm.kind == launcher.vmm().kind {
            "IRONCLAW_QEMU_ACCEL=kvm".to_owned()
        } else {
            format!("IRONCLAW_BACKEND={}", vmm.kind.name())
        });
        let probe = config.template_path.join(probe_file(&vmm.kind));
        probes.push(probe.display().to_string());
    }
    if insist.is_empty() {
        return Check::ok(HYPERVISOR, found);
    }
    let advice = format!(
        "{} shows more of such a boot; a kernel that boots there can be imported (`ironclaw template \
         import --help`); without {} it is tried again at the next start",
        insist.join(" or "),
        probes.join(" and "),
    );
    Check {
        advice: Some(advice),
        ..Check::ok(HYPERVISOR, found)
    }
}

fn why(config: &Config) -> String {
    let backend = match &config.backend {
        BackendChoice::Auto => {
            let kinds = config.backends.list().into_iter();
            let kinds: Vec<_> = kinds.map(|backend| backend.kind().to_string()).collect();
            let order = kinds.join(" where it boots the template, else ");
            format!("IRONCLAW_BACKEND=auto takes {order}")
        }
        BackendChoice::Only(kind) => format!("IRONCLAW_BACKEND={}", kind.name()),
    };
    let accelerator = match config.backends.qemu.accel {
        AccelChoice::Auto => "auto",
        AccelChoice::Kvm => "kvm",
        AccelChoice::Tcg => "tcg",
    };
    format!("{backend}, IRONCLAW_QEMU_ACCEL={accelerator}")
}

#[cfg(test)]
mod tests {
    use super::qemu::Purpose;
    use super::*;
    use std::ffi::OsString;
    use std::fs::{self, File, Permissions};
    use std::io;
    use std::os::unix::fs::PermissionsExt as _;

    use ironclaw_orchestrator::vm::snapshot::{Host, Requirements, SnapshotStore};
    use ironclaw_orchestrator::vm::vmm::{VmmIdentity, VmmKind};

    /// Creates a configuration from some settings.
    pub(super) fn config(set: &[(&str, &str)]) -> Config {
        let home = [("HOME", "/nonexistent")];
        let of = |name: &str| {
            let set = set.iter().chain(&home).find(|(known, _)| *known == name);
            set.map(|(_, value)| OsString::from(value))
        };
        Config::from_vars(of, false).unwrap()
    }

    pub(super) fn no_kvm() -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    #[tokio::test]
    async fn a_wrong_firecracker_fails_where_it_would_be_used() {
        const WRONG: (&str, &str) = ("IRONCLAW_FIRECRACKER", "/nonexistent/firecracker");
        for (backend, opened, status) in [
            ("auto", Ok(()), Status::Fail),
            ("auto", no_kvm(), Status::Ok),
            ("qemu", Ok(()), Status::Ok),
            ("firecracker", Ok(()), Status::Fail),
            ("firecracker", no_kvm(), Status::Fail),
        ] {
            let config = config(&[WRONG, ("IRONCLAW_BACKEND", backend)]);
            let (checks, purpose) = firecracker::checks(&config, &opened).await;
            assert_eq!(checks[0].status, status, "{backend} {opened:?}");
            let expected = match backend {
                "firecracker" => Purpose::Nothing,
                _ => Purpose::Hypervisor,
            };
            assert_eq!(purpose, expected, "{backend} {opened:?}");
        }
    }

    #[tokio::test]
    async fn a_disk_without_room_for_snapshots_slows_runs_down() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&[("IRONCLAW_MEMORY_MIB", "16384")]);
        let check = async |missing| {
            let check = space(&config, directory.path().to_owned(), missing).await;
            check.status
        };
        assert_eq!(check(0).await, Status::Ok);
        // More than any disk has.
        assert_eq!(check(1 << 40).await, Status::Warn);
    }

    #[test]
    fn settings_without_room_for_a_vm_fail_and_are_named() {
        let tight = config(&[("IRONCLAW_MEMORY_BUDGET_MIB", "128")]);
        let check = memory(&tight);
        assert_eq!(check.status, Status::Fail);
        assert!(check.found.contains("IRONCLAW_MEMORY_BUDGET_MIB"));
        let wide = config(&[("IRONCLAW_MEMORY_BUDGET_MIB", "1024")]);
        assert_eq!(memory(&wide).status, Status::Ok);
    }

    #[tokio::test]
    async fn no_snapshot_is_usable_without_a_template() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name).to_str().unwrap().to_owned();
        let (templates, snapshots_path) = (path("templates"), path("snapshots"));
        let config = config(&[
            ("IRONCLAW_TEMPLATE_PATH", &templates),
            ("IRONCLAW_SNAPSHOT_PATH", &snapshots_path),
        ]);
        let required = Requirements {
            template: "0".repeat(64).parse().unwrap(),
            vmm: VmmIdentity::new(VmmKind::new("QEMU"), "7.2.0", "tcg"),
            machine: config.machine,
            host: Host::current(None).unwrap(),
        };
        let store = SnapshotStore::open(&config.snapshot_path).unwrap();
        let staging = store.stage(&required).unwrap();
        let memory = File::create(staging.memory()).unwrap();
        memory.set_len(config.machine.memory_bytes()).unwrap();
        fs::write(staging.vmstate(), "devices").unwrap();
        staging.publish(required.describe(1)).unwrap();
        let checks = snapshots(&config).await;
        assert!(checks[0].found.starts_with("0 usable"), "{checks:?}");
        assert_eq!(checks[0].status, Status::Warn);
    }

    #[tokio::test]
    async fn beside_a_firecracker_qemu_is_for_what_that_does_not_boot() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("firecracker");
        std::fs::write(&program, "#!/bin/sh\necho Firecracker v1.17.0\n").unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        for (backend, expected) in [
            ("auto", Purpose::Fallback),
            ("firecracker", Purpose::Nothing),
        ] {
            let config = config(&[
                ("IRONCLAW_FIRECRACKER", program.to_str().unwrap()),
                ("IRONCLAW_BACKEND", backend),
                ("IRONCLAW_JAIL", "off"),
            ]);
            let (checks, purpose) = firecracker::checks(&config, &Ok(())).await;
            assert_eq!(checks[0].status, Status::Ok, "{checks:?}");
            assert_eq!(purpose, expected, "{backend}");
        }
    }
}
