//! Checks Firecracker.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ironclaw_console::causes;
use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::config::{
    BackendChoice, JailChoice, RUN_PATH, SNAPSHOT_PATH, TEMPLATE_PATH,
};
use ironclaw_orchestrator::vm::firecracker::{Confined, FirecrackerBinary, KIND, find_jailer};
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_settings::Setting;
use rustix::process::geteuid;

use super::check::Check;
use super::qemu::Purpose;

/// Checks the binary, and the jailer if VMs are to be jailed; returns what QEMU remains needed for.
/// `opened` tells whether there is KVM, without which `auto` does not even look for Firecracker.
pub(super) async fn checks(config: &Config, opened: &io::Result<()>) -> (Vec<Check>, Purpose) {
    const NAME: &str = "Firecracker";
    let unused = |why: &str| (vec![Check::ok(NAME, why)], Purpose::Hypervisor);
    let only = is_chosen(config);
    match &config.backend {
        BackendChoice::Only(other) if !only => {
            let why = format!("not asked for, as IRONCLAW_BACKEND={}", other.name());
            return unused(&why);
        }
        BackendChoice::Auto if opened.is_err() => {
            return unused("not looked for: it takes KVM, and IRONCLAW_BACKEND=auto does without");
        }
        BackendChoice::Auto | BackendChoice::Only(_) => {}
    }
    let (checks, purpose) =
        match FirecrackerBinary::find(config.backends.firecracker.binary.as_deref()).await {
            Ok(binary) => {
                let found = format!("{} {}", binary.path.display(), words(&binary));
                let mut checks = vec![Check::ok(NAME, found), jail(config, &binary)];
                if jailed(config) {
                    checks.extend(control_groups());
                    checks.extend(file_systems(config));
                }
                (checks, Purpose::Fallback)
            }
            // Not requested by name.
            Err(error @ VmmError::NotInstalled { path: None, .. }) if !only => {
                let found = causes(&error);
                let check = Check::warn(NAME, found, "until then QEMU runs the guests");
                (vec![check], Purpose::Hypervisor)
            }
            // The error has the advice.
            Err(error) => {
                let check = Check::fail(NAME, causes(&error), None);
                (vec![check], Purpose::Hypervisor)
            }
        };
    (checks, if only { Purpose::Nothing } else { purpose })
}

/// Returns whether it is the only backend that may serve, chosen by name.
fn is_chosen(config: &Config) -> bool {
    config.backend.kind() == Some(&KIND)
}

/// Formats the version, with its known limitations.
fn words(binary: &FirecrackerBinary) -> String {
    let version = &binary.version;
    if binary.quirks.hears_after_pause {
        version.clone()
    } else {
        format!(
            "{version} (its guests hear nothing after a pause by its API, Firecracker's #6100, so \
             none is paused here: warm clones are held by a signal)"
        )
    }
}

fn jailed(config: &Config) -> bool {
    config.jail != JailChoice::Off
        && geteuid().is_root()
        && find_jailer(config.backends.firecracker.jailer.as_deref()).is_ok()
}

/// Checks its jail: the jailer as root, and the confinement of an ordinary user otherwise.
fn jail(config: &Config, binary: &FirecrackerBinary) -> Check {
    if config.jail == JailChoice::Off {
        return Check::warn(
            JAILER,
            "not used, as IRONCLAW_JAIL=off",
            "a guest that breaks out of Firecracker has all rights of this user",
        );
    }
    if config.jail == JailChoice::On || geteuid().is_root() {
        return jailer(config);
    }
    let state = [config.snapshot_path.clone(), config.template_path.clone()];
    let confined = Confined::find(&binary.path, &config.run_path, &state);
    let mut found = format!("in force: {}", confined.in_force().join(", "));
    let Some(reason) = confined.why_no_stronger() else {
        return Check::ok(CONFINED, found);
    };
    found.push_str("; missing: Landlock, so that it can open files of this user");
    Check::warn(CONFINED, found, format!("{reason}; as root it is jailed"))
}

const JAILER: &str = "jailer";
const CONFINED: &str = "Firecracker's jail";

fn jailer(config: &Config) -> Check {
    match find_jailer(config.backends.firecracker.jailer.as_deref()) {
        Ok(path) if geteuid().is_root() => Check::ok(
            JAILER,
            format!(
                "{}, user ids {} (IRONCLAW_JAIL_USERS)",
                path.display(),
                config.jail_users
            ),
        ),
        Ok(path) => Check::fail(
            JAILER,
            format!("{} is there, but only root can jail", path.display()),
            Some("run as root".to_owned()),
        ),
        Err(error) => Check::fail(JAILER, causes(&error), None),
    }
}

/// Checks the file systems: files that a jailed VM reads are linked into its jail, files that it
/// writes are moved out.
fn file_systems(config: &Config) -> Option<Check> {
    const NAME: &str = "file systems";
    // A path that does not exist yet will be on the file system of its nearest existing ancestor.
    let of = |path: &Path| {
        path.ancestors()
            .find_map(|path| Some(fs::metadata(path).ok()?.dev()))
    };
    let run = of(&config.run_path);
    let apart = |path| of(path) != run;
    let (templates, snapshots) = (apart(&config.template_path), apart(&config.snapshot_path));
    let name = |setting: &Setting| setting.variable();
    let (which, then) = match (templates, snapshots) {
        (false, false) => return None,
        (true, _) => (name(&TEMPLATE_PATH), "no jailed VM can boot"),
        (false, true) => (
            name(&SNAPSHOT_PATH),
            "each jailed VM boots, for want of a snapshot",
        ),
    };
    let [templates_name, snapshots_name, run_name] =
        [&TEMPLATE_PATH, &SNAPSHOT_PATH, &RUN_PATH].map(name);
    let found = format!("{which} and {run_name} are on different ones, so {then}");
    let advice =
        format!("set {templates_name}, {snapshots_name} and {run_name} to directories on one");
    Some(if templates && is_chosen(config) {
        Check::fail(NAME, found, Some(advice))
    } else {
        Check::warn(NAME, found, advice)
    })
}

/// Checks a mount option that breaks jails: Firecracker's docs/prod-host-setup.md recommends it for
/// hosts with cgroup v2.
fn control_groups() -> Option<Check> {
    const NAME: &str = "control groups";
    let mut mounts = procfs::mounts().ok()?.into_iter();
    let mount =
        mounts.find(|mount| mount.fs_file == "/sys/fs/cgroup" && mount.fs_vfstype == "cgroup2")?;
    Some(if mount.fs_mntops.contains_key("favordynmods") {
        Check::ok(NAME, "version 2, mounted with favordynmods")
    } else {
        Check::warn(
            NAME,
            "version 2, mounted without favordynmods: starting a jail waits for the kernel",
            "mount -o remount,favordynmods /sys/fs/cgroup (Linux 6.1 or newer)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::tests::config;

    #[test]
    fn obstacles_to_jails_are_found_before_they_are_made() {
        // Never exists.
        const HERE: &str = "/nonexistent/here";
        const ELSEWHERE: &str = "/proc/nonexistent/there";
        let check = |backend, templates: &str, snapshots: &str| {
            let config = config(&[
                ("IRONCLAW_BACKEND", backend),
                ("IRONCLAW_RUN_PATH", &format!("{HERE}/run")),
                ("IRONCLAW_TEMPLATE_PATH", &format!("{templates}/templates")),
                ("IRONCLAW_SNAPSHOT_PATH", &format!("{snapshots}/snapshots")),
            ]);
            file_systems(&config).map(|check| check.status)
        };
        assert_eq!(check("firecracker", HERE, HERE), None);
        assert_eq!(check("firecracker", ELSEWHERE, HERE), Some(Status::Fail));
        assert_eq!(check("firecracker", HERE, ELSEWHERE), Some(Status::Warn));
        assert_eq!(check("auto", ELSEWHERE, ELSEWHERE), Some(Status::Warn));
    }
}
