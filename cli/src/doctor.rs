//! `ironclaw doctor`

mod firecracker;
mod kvm;
mod qemu;

use std::path::PathBuf;

use anyhow::Result;
use ironclaw_orchestrator::vm::config::{AccelChoice, BackendChoice};
use ironclaw_orchestrator::vm::snapshot::Entry;
use ironclaw_orchestrator::vm::{Config, Launcher, find_guest_agent};
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use crate::exit::{self, Exit};
use crate::output::{self, blocking, mebibytes};
use crate::progress::Reporter;
use crate::template::{self, Current};
use crate::{pool, snapshot};

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
    let opened = kvm::open();
    let (mut checks, purpose) = firecracker::checks(config, &opened).await;
    checks.extend([
        qemu::check(config, purpose).await,
        kvm::check(config, &opened),
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
            let hint = if translated && kvm::open().is_ok() {
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

#[cfg(test)]
mod tests {
    use super::qemu::Purpose;
    use super::*;
    use std::ffi::OsString;
    use std::fs::Permissions;
    use std::io;
    use std::os::unix::fs::PermissionsExt as _;

    /// Settings of which some are set.
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
