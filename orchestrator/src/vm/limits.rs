//! How long a VM may live.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::vm::exit_reason::ExitReason;
use crate::vm::guest::Activity;
use crate::vm::vmm::MicroVm;

/// When a VM is killed, if its holder does not end it before. What is asked of it then fails with
/// [`GuestError::Closed`](super::GuestError::Closed), which says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// At this age, counted from when it was handed out.
    pub max_lifetime: Option<Duration>,
    /// When nothing was under way in it for so long: no command, no file, no ping.
    pub idle: Option<Duration>,
}

impl Limits {
    /// Kills the VM in time. What watches it ends with it.
    pub(super) fn enforce(self, vm: &Arc<dyn MicroVm>, activity: Activity) {
        let Self { max_lifetime, idle } = self;
        if max_lifetime.is_none() && idle.is_none() {
            return;
        }
        let exited = vm.exited();
        let vm = Arc::downgrade(vm);
        tokio::spawn(async move {
            let reason = tokio::select! {
                _ = exited => return,
                reason = expired(max_lifetime) => reason,
                reason = unused(idle, &activity) => reason,
            };
            tracing::info!(%reason, "a VM is killed");
            activity.close(&reason);
            if let Some(vm) = vm.upgrade() {
                vm.kill();
            }
        });
    }
}

async fn expired(lifetime: Option<Duration>) -> ExitReason {
    let Some(lifetime) = lifetime else {
        return pending().await;
    };
    sleep(lifetime).await;
    ExitReason::Lifetime(lifetime)
}

async fn unused(idle: Option<Duration>, activity: &Activity) -> ExitReason {
    let Some(idle) = idle else {
        return pending().await;
    };
    activity.none_for(idle).await;
    ExitReason::Idle(idle)
}
