//! `ironclaw doctor`

mod firecracker;

use std::path::{Path, PathBuf};

use anyhow::Result;
use ironclaw_orchestrator::vm::config::{AccelChoice, BackendChoice};
use ironclaw_orchestrator::vm::qemu::QemuBinary;
use ironclaw_orchestrator::vm::snapshot::Entry;
use ironclaw_orchestrator::vm::{Config, Launcher, find_guest_agent};
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use crate::exit::{self, Exit};
use crate::output::{self, blocking, mebibytes};
use crate::progress::Reporter;
use crate::template::{self, Current};
use crate::{pool, snapshot};

const KVM: &str = "/dev/kvm";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// A run works, if slower or later.
    Warn,
    /// A run would not work.
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Warn,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: Option<String>) -> Self {
        Self {
            name,
            status: Status::Fail,
            found: found.into(),
            advice,
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether a run would work.
    works: bool,
    checks: Vec<Check>,
}

/// Checks everything; the exit code says whether a run would work.
pub(crate) async fn run(config: &Config, json: bool) -> Result<u8> {
    let current = template::current(config).await;
    let to_build = !matches!(current, Ok(Current::Ready(_)));
    let mut checks = firecracker::checks(config).await;
    let firecracker = checks.iter().all(|check| check.status != Status::Fail)
        && config.backend == BackendChoice::Firecracker;
    checks.extend([
        qemu(config, firecracker).await,
        kvm(config),
        agent(config, to_build),
        tools(to_build),
        template(&current),
    ]);
    checks.extend(snapshots(config).await);
    checks.push(backend(config, &checks, to_build).await);
    let works = checks.iter().all(|check| check.status != Status::Fail);
    let report = Report { works, checks };
    if json {
        output::json(&report)
    } else {
        print(report)
    }?;
    Ok(if works { 0 } else { Exit::Found as u8 })
}

fn print(report: Report) -> Result<()> {
    for check in report.checks {
        let status = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        output::line(&format!("{status}  {:<16}  {}", check.name, check.found))?;
        if let Some(advice) = check.advice {
            output::line(&format!("{:24}-> {advice}", ""))?;
        }
    }
    output::line(if report.works {
        "`ironclaw run` works here."
    } else {
        "`ironclaw run` would not work: see FAIL above."
    })
}

/// `spare`: another hypervisor is insisted on.
async fn qemu(config: &Config, spare: bool) -> Check {
    const NAME: &str = "QEMU";
    match QemuBinary::find(config.qemu.as_deref()).await {
        Ok(binary) => Check::ok(
            NAME,
            format!("{} {}", binary.path.display(), binary.version),
        ),
        // It says itself what to install or set.
        Err(error) if spare => Check::ok(
            NAME,
            format!(
                "{}; IRONCLAW_BACKEND=firecracker does without",
                exit::causes(&error)
            ),
        ),
        Err(error) => Check::fail(NAME, exit::causes(&error), None),
    }
}

fn kvm(config: &Config) -> Check {
    const NAME: &str = "KVM";
    let slow = "guests run by translation, which is slower";
    let missing = if !Path::new(KVM).exists() {
        (
            format!("{KVM} does not exist; {slow}"),
            "enable virtualization in the firmware, or nested virtualization of this VM, and load \
             kvm_intel or kvm_amd",
        )
    } else if let Err(error) = kvm_opens() {
        (
            format!("{KVM} can't be opened by this user ({error}); {slow}"),
            "add the user to the group kvm: usermod -aG kvm USER",
        )
    } else {
        return Check::ok(NAME, format!("{KVM} is there and this user may open it"));
    };
    match config.qemu_accel {
        AccelChoice::Kvm => Check::fail(NAME, missing.0, Some(missing.1.to_owned())),
        AccelChoice::Tcg => Check::ok(
            NAME,
            format!("{}, as IRONCLAW_QEMU_ACCEL=tcg asks for", missing.0),
        ),
        AccelChoice::Auto => Check::warn(NAME, missing.0, missing.1),
    }
}

fn kvm_opens() -> rustix::io::Result<()> {
    access(KVM, Access::READ_OK | Access::WRITE_OK)
}

fn agent(config: &Config, to_build: bool) -> Check {
    const NAME: &str = "guest agent";
    match find_guest_agent(config) {
        Ok(path) => Check::ok(NAME, path.display().to_string()),
        Err(error) if to_build => Check::fail(NAME, exit::causes(&error), None),
        Err(error) => Check::warn(
            NAME,
            exit::causes(&error),
            "needed only to build another template; the one on disk holds one",
        ),
    }
}

fn tools(to_build: bool) -> Check {
    const NAME: &str = "template tools";
    let missing: Vec<_> = ["apt-get", "apt-cache", "dpkg-deb"]
        .into_iter()
        .filter(|tool| !on_path(tool))
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

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| {
        let file = directory.join(program);
        file.is_file() && access(&file, Access::EXEC_OK).is_ok()
    })
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
        Err(error) => Check::fail(
            NAME,
            exit::causes(error.as_ref()),
            Some("make the directory usable, or set IRONCLAW_TEMPLATE_PATH to another".to_owned()),
        ),
    }
}

async fn snapshots(config: &Config) -> Vec<Check> {
    const NAME: &str = "snapshots";
    let path = config.snapshot_path.clone();
    match snapshot::entries(config).await {
        Ok(entries) => {
            // What is unknown while there is no template or hypervisor is for their checks to say.
            let required = pool::requirements(config).await.ok().flatten();
            let usable = |entry: &&Entry| {
                entry.state.as_ref().is_ok_and(|manifest| {
                    required
                        .as_ref()
                        .is_none_or(|required| required.check(manifest).is_ok())
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
        // It says itself what to do.
        Err(error) => vec![Check::fail(NAME, exit::causes(error.as_ref()), None)],
    }
}

/// Whether there is room for one snapshot, and for all that are `missing`.
async fn space(config: &Config, path: PathBuf, missing: usize) -> Check {
    const NAME: &str = "disk space";
    let memory = config.machine.memory_bytes();
    let all = memory.saturating_mul(u64::try_from(missing).unwrap_or(u64::MAX));
    let advice = "free some, or set IRONCLAW_SNAPSHOT_PATH to a directory on another file system";
    let text = path.display().to_string();
    match blocking(move || statvfs(&path)).await {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let found = format!("{} free at {text}", mebibytes(free));
            if missing > 0 && free < memory {
                let needed = format!("; a snapshot takes up to {}", mebibytes(memory));
                Check::fail(NAME, found + &needed, Some(advice.to_owned()))
            } else if free < all {
                let needed = format!(
                    "; the {missing} missing snapshots take up to {}",
                    mebibytes(all)
                );
                Check::warn(NAME, found + &needed, advice)
            } else {
                Check::ok(NAME, found)
            }
        }
        Err(error) => Check::fail(NAME, exit::causes(error.as_ref()), None),
    }
}

/// Which hypervisor a run would use: asked of the library itself, if that builds nothing.
async fn backend(config: &Config, checks: &[Check], to_build: bool) -> Check {
    const NAME: &str = "hypervisor";
    if checks.iter().any(|check| check.status == Status::Fail) {
        return Check::fail(NAME, "none could be used, see above", None);
    }
    if to_build {
        return Check::warn(
            NAME,
            format!(
                "not asked, since that would build the template; {}",
                why(config)
            ),
            "run `ironclaw template build`, then this again",
        );
    }
    match Launcher::open(config, Reporter::new().progress()).await {
        Ok(launcher) => {
            let vmm = launcher.vmm();
            let found = format!("{} {} ({})", vmm.kind, vmm.version, vmm.accelerator);
            let translated = config.qemu_accel == AccelChoice::Auto && vmm.accelerator == "tcg";
            let hint = if translated && kvm_opens().is_ok() {
                "; auto chose tcg, IRONCLAW_QEMU_ACCEL=kvm insists on KVM"
            } else {
                ""
            };
            Check::ok(NAME, format!("{found}; {}{hint}", why(config)))
        }
        Err(error) => Check::fail(NAME, exit::causes(&error), None),
    }
}

fn why(config: &Config) -> String {
    let backend = match config.backend {
        BackendChoice::Auto => {
            "IRONCLAW_BACKEND=auto takes Firecracker where it boots the template, else QEMU"
        }
        BackendChoice::Qemu => "IRONCLAW_BACKEND=qemu",
        BackendChoice::Firecracker => "IRONCLAW_BACKEND=firecracker",
    };
    let accelerator = match config.qemu_accel {
        AccelChoice::Auto => "auto",
        AccelChoice::Kvm => "kvm",
        AccelChoice::Tcg => "tcg",
    };
    format!("{backend}, IRONCLAW_QEMU_ACCEL={accelerator}")
}
