//! Installs the Debian packages needed to build and run IronClaw.
//!
//! Never removes an installed package for them.
//!
//! Nothing that is installed is ever removed for them.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use which::which;

use crate::suites::Suite;
use crate::workspace::Workspace;
use crate::{step, suites};

/// A Debian package, and how to detect it. A tool from elsewhere is as good.
struct Package {
    name: &'static str,
    purpose: &'static str,
    present: fn() -> bool,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        purpose: "links programs",
        present: || which("gcc").is_ok(),
    },
    Package {
        name: "libc6-dev",
        purpose: "C library that the guest agent is linked to statically",
        present: static_libc,
    },
    Package {
        name: "dpkg",
        purpose: "unpacks the packages that a guest is made of",
        present: || which("dpkg-deb").is_ok(),
    },
    Package {
        name: "qemu-system-x86",
        purpose: "runs the VMs",
        present: || env::var_os("IRONCLAW_QEMU").is_some() || which("qemu-system-x86_64").is_ok(),
    },
];

/// Tools that tests compare with, and that make what tests read. Debian's `docker-registry` is not
/// among them: to install it starts a server.
const TEST_PACKAGES: &[Package] = &[
    Package {
        name: "erofs-utils",
        purpose: "checks images of roots",
        present: || which("fsck.erofs").is_ok(),
    },
    Package {
        name: "openssl",
        purpose: "makes certificates of registries",
        present: || which("openssl").is_ok(),
    },
    Package {
        name: "skopeo",
        purpose: "copies images to registries and archives",
        present: || which("skopeo").is_ok(),
    },
    Package {
        name: "umoci",
        purpose: "makes images",
        present: || which("umoci").is_ok(),
    },
];

/// The packages that a guest is made of: downloaded when a template is built, never installed.
const GUEST_PACKAGES: &[&str] = &["linux-image-cloud-amd64", "busybox-static"];

/// Installs missing packages and removes none. Prints and does nothing if none is missing.
///
/// # Errors
/// If something is missing and can't be installed; says what to type.
pub(crate) fn ensure_installed(workspace: &Workspace) -> Result<()> {
    ensure(workspace, PACKAGES.iter())
}

/// Installs missing packages as [`ensure_installed`], and those that tests take.
///
/// # Errors
/// As for [`ensure_installed`].
pub(crate) fn ensure_installed_for_tests(workspace: &Workspace) -> Result<()> {
    ensure(workspace, PACKAGES.iter().chain(TEST_PACKAGES))
}

fn ensure(workspace: &Workspace, packages: impl Iterator<Item = &'static Package>) -> Result<()> {
    let missing: Vec<_> = packages.filter(|package| !(package.present)()).collect();
    if which("apt-get").is_err() {
        if missing.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = missing
            .iter()
            .map(|package| format!("{} ({})", package.name, package.purpose))
            .collect();
        bail!(
            "this is not a Debian system (no apt-get); install what these Debian packages hold \
             and try again: {}",
            list.join(", ")
        );
    }
    if missing.is_empty() && guest_packages_known() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    let Some(apt_get) = AptGet::find() else {
        let install = match names.as_slice() {
            [] => String::new(),
            names => format!(
                " && apt-get install -y --no-remove --no-install-recommends {}",
                names.join(" ")
            ),
        };
        bail!("neither root nor sudo to set this system up with; as root: apt-get update{install}");
    };
    step::quietly(
        "updating APT's lists",
        &mut apt_get.command(&["update", "-qq"]),
    )?;
    if names.is_empty() {
        return Ok(());
    }
    install(apt_get, &names, workspace)
}

/// Installs packages from the machine's own release or, if installed packages conflict with these,
/// from another release that fits.
fn install(apt_get: AptGet, names: &[&str], workspace: &Workspace) -> Result<()> {
    let list = names.join(", ");
    let from = |suite: &Suite, what: &str| {
        let mut command = apt_get.command(&["install", "-y", "-qq"]);
        command.args(["--no-remove", "--no-install-recommends"]);
        step::quietly(what, command.args(suite.options()).args(names))
    };
    let Err(error) = from(&Suite::default(), &format!("installing {list}")) else {
        return Ok(());
    };
    let hindrances = suites::in_the_way(&simulation(names), installed_version);
    if hindrances.is_empty() {
        return Err(error);
    }
    let known = suites::known(&said("apt-cache", &["madison"], names));
    for suite in known.iter().skip(1) {
        let what = format!(
            "installing {list} from {}, which removes nothing",
            suite.name
        );
        if from(suite, &what).is_ok() {
            return Ok(());
        }
    }
    // Packages installed from backports show where matching ones are.
    let backports = hindrances
        .iter()
        .find_map(|package| package.backports(known.first()?));
    if let Some(suite) = &backports {
        let private = suite.with_lists_in(&workspace.target().join("apt"))?;
        let what = format!(
            "fetching the lists of {}, to fit {}",
            suite.name, hindrances[0]
        );
        let mut update = apt_get.command(&["update", "-qq"]);
        let updated = step::quietly(&what, update.args(private.options()));
        let what = format!(
            "installing {list} from {}, which removes nothing",
            suite.name
        );
        if updated.and_then(|()| from(&private, &what)).is_ok() {
            return Ok(());
        }
    }
    let hindrances: Vec<_> = hindrances.iter().map(ToString::to_string).collect();
    bail!(
        "{list} can't be installed without removing {}, so nothing was changed. Choose:\n  \
         to remove it:               apt-get install --no-install-recommends {}\n  \
         to look for one that fits:  apt-cache madison {}\n                              \
         apt-get install --no-remove --no-install-recommends -t SUITE {}\n  \
         to use a QEMU of your own:  IRONCLAW_QEMU=/path/to/qemu-system-x86_64 cargo xtask ...",
        hindrances.join(", "),
        names.join(" "),
        names.join(" "),
        names.join(" "),
    )
}

/// Simulates an installation that may remove packages. Changes nothing.
fn simulation(names: &[&str]) -> String {
    said(
        "apt-get",
        &["install", "-s", "--no-install-recommends"],
        names,
    )
}

/// Returns the version of an installed package.
fn installed_version(package: &str) -> Option<String> {
    let format = ["-W", "-f", "${db:Status-Abbrev}${Version}"];
    let said = said("dpkg-query", &format, &[package]);
    said.strip_prefix("ii ").map(str::to_owned)
}

/// Returns the output of a command in the C locale.
fn said(program: &str, arguments: &[&str], names: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).args(names).env("LC_ALL", "C");
    let output = command.stderr(Stdio::null()).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Returns whether APT's lists were ever fetched: images of Debian come without them.
fn guest_packages_known() -> bool {
    succeeds(
        Command::new("apt-cache")
            .args(["show", "--no-all-versions"])
            .args(GUEST_PACKAGES),
    )
}

/// Returns whether the compiler finds a static C library.
fn static_libc() -> bool {
    let found = Command::new("gcc")
        .arg("-print-file-name=libc.a")
        .stderr(Stdio::null())
        .output();
    // It prints the bare name of a file that it does not find.
    found
        .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute())
}

/// How this user can call APT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AptGet {
    Root,
    Sudo,
}

impl AptGet {
    fn find() -> Option<Self> {
        let id = Command::new("id").arg("-u").output().ok()?;
        if id.stdout.trim_ascii() == b"0" {
            Some(Self::Root)
        } else {
            which("sudo").ok().map(|_| Self::Sudo)
        }
    }

    fn command(self, arguments: &[&str]) -> Command {
        let frontend = "DEBIAN_FRONTEND=noninteractive";
        // sudo drops the environment, hence env(1) in both cases.
        let mut command = Command::new(if self == Self::Root { "env" } else { "sudo" });
        if self == Self::Sudo {
            command.arg("env");
        }
        command.args([frontend, "apt-get"]).args(arguments);
        command
    }
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_is_asked_without_questions_with_and_without_sudo() {
        assert_eq!(
            step::line(&AptGet::Root.command(&["update"])),
            "env DEBIAN_FRONTEND=noninteractive apt-get update"
        );
        assert_eq!(
            step::line(&AptGet::Sudo.command(&["update"])),
            "sudo env DEBIAN_FRONTEND=noninteractive apt-get update"
        );
    }
}
