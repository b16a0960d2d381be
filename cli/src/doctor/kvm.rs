//! What `ironclaw doctor` says of KVM.

use std::fs::File;
use std::io;

use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::config::{AccelChoice, BackendChoice};

use super::Check;

const DEVICE: &str = "/dev/kvm";

pub(super) fn check(config: &Config, opened: &io::Result<()>) -> Check {
    const NAME: &str = "KVM";
    let Err(error) = opened else {
        return Check::ok(NAME, format!("{DEVICE} is there and this user may open it"));
    };
    let (found, advice) = if error.kind() == io::ErrorKind::NotFound {
        (
            format!("{DEVICE} does not exist"),
            "enable virtualization in the firmware, or nested virtualization of this VM, and load \
             kvm_intel or kvm_amd",
        )
    } else {
        (
            format!("{DEVICE} can't be opened by this user ({error})"),
            "add the user to the group kvm: usermod -aG kvm USER",
        )
    };
    let slow = "guests run by translation, which is slower";
    match (config.backend, config.qemu_accel) {
        (BackendChoice::Firecracker, _) => Check::fail(
            NAME,
            format!("{found}, and IRONCLAW_BACKEND=firecracker needs it"),
            Some(advice.to_owned()),
        ),
        (_, AccelChoice::Kvm) => Check::fail(
            NAME,
            format!("{found}, and IRONCLAW_QEMU_ACCEL=kvm needs it"),
            Some(advice.to_owned()),
        ),
        (_, AccelChoice::Tcg) => Check::ok(
            NAME,
            format!("{found}; {slow}, as IRONCLAW_QEMU_ACCEL=tcg asks for"),
        ),
        (_, AccelChoice::Auto) => Check::warn(NAME, format!("{found}; {slow}"), advice),
    }
}

/// As a hypervisor does: what the file's mode promises is not all that it takes.
pub(super) fn open() -> io::Result<()> {
    File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::tests::{config, no_kvm};
    use super::*;

    #[test]
    fn without_kvm_only_what_insists_on_it_fails() {
        for (set, status) in [
            (&[][..], Status::Warn),
            (&[("IRONCLAW_BACKEND", "qemu")], Status::Warn),
            (&[("IRONCLAW_BACKEND", "firecracker")], Status::Fail),
            (&[("IRONCLAW_QEMU_ACCEL", "kvm")], Status::Fail),
            (&[("IRONCLAW_QEMU_ACCEL", "tcg")], Status::Ok),
        ] {
            assert_eq!(check(&config(set), &no_kvm()).status, status, "{set:?}");
            assert_eq!(check(&config(set), &Ok(())).status, Status::Ok, "{set:?}");
        }
    }
}
