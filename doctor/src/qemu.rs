//! Checks QEMU.

use ironclaw_console::causes;
use ironclaw_console::output::blocking;
use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_orchestrator::vm::qemu::{Jail, QemuBinary};

use super::check::Check;

/// The use of QEMU in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is the hypervisor.
    Hypervisor,
    /// It runs guests that Firecracker does not boot.
    Fallback,
    /// No use.
    Nothing,
}

pub(super) async fn check(config: &Config, purpose: Purpose) -> Check {
    const NAME: &str = "QEMU";
    // The error has the advice.
    match (
        QemuBinary::find(config.backends.qemu.binary.as_deref()).await,
        purpose,
    ) {
        (Ok(binary), _) => Check::ok(
            NAME,
            format!("{} {}", binary.path.display(), binary.version),
        ),
        (Err(error), Purpose::Hypervisor) => Check::fail(NAME, causes(&error), None),
        (Err(error), Purpose::Fallback) => Check::warn(
            NAME,
            causes(&error),
            "needed only for a template that Firecracker does not boot",
        ),
        (Err(error), Purpose::Nothing) => Check::ok(
            NAME,
            format!(
                "{}; IRONCLAW_BACKEND=firecracker does without",
                causes(&error)
            ),
        ),
    }
}

/// Checks the jail, which confines a guest that takes QEMU over; `None` if no QEMU is used.
pub(super) async fn jail(config: &Config, purpose: Purpose) -> Option<Check> {
    const NAME: &str = "QEMU's jail";
    if purpose == Purpose::Nothing {
        return None;
    }
    let binary = QemuBinary::find(config.backends.qemu.binary.as_deref())
        .await
        .ok()?;
    let (choice, users) = (config.jail, config.jail_users.0.clone());
    let jail = blocking(move || match choice {
        JailChoice::Off => Ok(Jail::off()),
        JailChoice::Auto => Jail::find(&binary.path, users),
        JailChoice::On => Jail::find(&binary.path, users)?.or_error(&binary.path),
    });
    let jail = match jail.await {
        Ok(jail) => jail,
        Err(error) => {
            let found = causes(error.as_ref());
            return Some(match purpose {
                Purpose::Hypervisor => Check::fail(NAME, found, None),
                _ => Check::warn(
                    NAME,
                    found,
                    "needed only for what Firecracker does not boot",
                ),
            });
        }
    };
    let mut found = format!("in force: {}", jail.in_force().join(", "));
    let missing = jail.missing();
    if !missing.is_empty() {
        found.push_str(&format!("; missing: {}", missing.join(", ")));
    }
    Some(if choice == JailChoice::Off {
        let advice = "a guest that breaks out of QEMU has all rights of this user, as \
                      IRONCLAW_JAIL=off has it";
        Check::warn(NAME, found, advice)
    } else if let Some(reason) = jail.why_no_stronger() {
        Check::warn(NAME, found, format!("there could be more, but {reason}"))
    } else {
        Check::ok(NAME, found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::tests::config;

    #[tokio::test]
    async fn a_missing_qemu_fails_where_nothing_else_could_run_the_guest() {
        let config = config(&[("IRONCLAW_QEMU", "/nonexistent/qemu")]);
        assert!(jail(&config, Purpose::Hypervisor).await.is_none());
        for (purpose, status) in [
            (Purpose::Hypervisor, Status::Fail),
            (Purpose::Fallback, Status::Warn),
            (Purpose::Nothing, Status::Ok),
        ] {
            assert_eq!(check(&config, purpose).await.status, status, "{purpose:?}");
        }
    }

    #[tokio::test]
    async fn a_jail_s_enforced_and_missing_parts_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("qemu");
        std::fs::write(&program, "#!/bin/sh\necho QEMU emulator version 10.0.0\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&program, mode).unwrap();
        let found = async |choice| {
            let set = [
                ("IRONCLAW_QEMU", program.to_str().unwrap()),
                ("IRONCLAW_JAIL", choice),
            ];
            jail(&config(&set), Purpose::Hypervisor).await.unwrap()
        };
        let off = found("off").await;
        assert_eq!(off.status, Status::Warn);
        assert!(
            off.found.contains("missing: a user id of its own"),
            "{off:?}"
        );
        assert!(off.found.contains("memory read-only"), "{off:?}");
        // Depends on the machine.
        let auto = found("auto").await;
        assert_ne!(auto.status, Status::Fail);
        assert!(auto.found.contains("no capabilities"), "{auto:?}");
    }
}
