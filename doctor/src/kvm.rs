//! Checks KVM.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::firecracker::KIND as FIRECRACKER;
use ironclaw_orchestrator::vm::qemu::settings::AccelChoice;

use super::check::Check;

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
             kvm_intel or kvm_amd"
                .to_owned(),
        )
    } else {
        (
            format!("{DEVICE} can't be opened by this user ({error})"),
            access(),
        )
    };
    let slow = "guests run by translation, which is slower";
    match (&config.backend, config.backends.qemu.accel) {
        (BackendChoice::Only(kind), _) if *kind == FIRECRACKER => Check::fail(
            NAME,
            format!("{found}, and IRONCLAW_BACKEND=firecracker needs it"),
            Some(advice),
        ),
        (_, AccelChoice::Kvm) => Check::fail(
            NAME,
            format!("{found}, and IRONCLAW_QEMU_ACCEL=kvm needs it"),
            Some(advice),
        ),
        (_, AccelChoice::Tcg) => Check::ok(
            NAME,
            format!("{found}; {slow}, as IRONCLAW_QEMU_ACCEL=tcg asks for"),
        ),
        (_, AccelChoice::Auto) => Check::warn(NAME, format!("{found}; {slow}"), advice),
    }
}

/// Returns how a user gets access to the device.
fn access() -> String {
    let facts = fs::metadata(DEVICE).ok();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    facts.map_or_else(String::new, |facts| {
        access_by(facts.mode(), facts.gid(), &groups)
    })
}

/// Advises to join the device's group, if a group other than root's may use it; `groups` is the
/// text of group(5).
fn access_by(mode: u32, gid: u32, groups: &str) -> String {
    const READ_AND_WRITE: u32 = 0o060;
    let id = gid.to_string();
    let group = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(id.as_str())).then_some(name)
    });
    match group {
        Some(name) if gid != 0 && mode & READ_AND_WRITE == READ_AND_WRITE => {
            format!("add the user to the group {name}, and log in anew: usermod -aG {name} USER")
        }
        _ => format!("let the user read and write it: setfacl -m u:USER:rw {DEVICE}"),
    }
}

/// Opens the device as a hypervisor does: the file's mode alone does not tell whether that works.
pub(super) fn open() -> io::Result<()> {
    File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::tests::{config, no_kvm};

    #[test]
    fn the_group_is_advised_only_where_there_is_one_that_may_use_it() {
        let groups = "root:x:0:\nkvm:x:106:libvirt\n";
        assert!(access_by(0o20660, 106, groups).contains("usermod -aG kvm"));
        for (mode, gid) in [(0o20600, 106), (0o20660, 0), (0o20660, 107)] {
            let advice = access_by(mode, gid, groups);
            assert!(
                advice.contains("setfacl") && !advice.contains("usermod"),
                "{advice}"
            );
        }
    }

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
