//! What `ironclaw doctor` says of QEMU.

use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::qemu::QemuBinary;

use super::Check;
use crate::exit;

/// What a run needs QEMU for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is the hypervisor.
    Hypervisor,
    /// It runs the guest where Firecracker does not boot it.
    Fallback,
    /// Nothing.
    Nothing,
}

pub(super) async fn check(config: &Config, purpose: Purpose) -> Check {
    const NAME: &str = "QEMU";
    // An error says itself what to install or set.
    match (QemuBinary::find(config.qemu.as_deref()).await, purpose) {
        (Ok(binary), _) => Check::ok(
            NAME,
            format!("{} {}", binary.path.display(), binary.version),
        ),
        (Err(error), Purpose::Hypervisor) => Check::fail(NAME, exit::causes(&error), None),
        (Err(error), Purpose::Fallback) => Check::warn(
            NAME,
            exit::causes(&error),
            "needed only for a template that Firecracker does not boot",
        ),
        (Err(error), Purpose::Nothing) => Check::ok(
            NAME,
            format!(
                "{}; IRONCLAW_BACKEND=firecracker does without",
                exit::causes(&error)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::tests::config;
    use super::*;

    #[tokio::test]
    async fn a_missing_qemu_fails_where_nothing_else_could_run_the_guest() {
        let config = config(&[("IRONCLAW_QEMU", "/nonexistent/qemu")]);
        for (purpose, status) in [
            (Purpose::Hypervisor, Status::Fail),
            (Purpose::Fallback, Status::Warn),
            (Purpose::Nothing, Status::Ok),
        ] {
            assert_eq!(check(&config, purpose).await.status, status, "{purpose:?}");
        }
    }
}
