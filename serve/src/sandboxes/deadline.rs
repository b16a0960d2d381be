//! Ends sandboxes at their deadlines, and forgets those whose VMs have ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Sandboxes;
use crate::causes::causes;
use crate::host_fault::HostFault;
use crate::sandbox::{Sandbox, SandboxError};

/// Time until a sandbox is ended or paused again that could not be at its deadline.
const EXPIRY_RETRY: Duration = Duration::from_secs(5);

impl Sandboxes {
    /// Ends a sandbox or pauses it at its deadline, and forgets it when its VM ended. While the host is at
    /// fault, it tries again.
    pub(super) async fn watch(self, sandbox: Arc<Sandbox>) {
        let mut not_before = Instant::now();
        loop {
            let expires = async {
                match sandbox.deadline() {
                    Some(at) => sleep_until(at.max(not_before)).await,
                    None => std::future::pending().await,
                }
            };
            let is_gone = || self.remove(&sandbox.id);
            let done = tokio::select! {
                () = sandbox.changed.notified() => Ok(()),
                () = expires => sandbox.expire(&self.0.paused, is_gone).await,
                () = sandbox.ended() => {
                    tracing::info!(sandbox = %sandbox.id, "the VM of a sandbox has ended");
                    self.kill(&sandbox).await.map(drop)
                }
            };
            match done {
                Ok(()) | Err(SandboxError::Gone) => {}
                Err(error) if HostFault::of(&error).is_some() => {
                    tracing::error!(sandbox = %sandbox.id, error = causes(&error), "a sandbox outlives its deadline");
                    not_before = Instant::now() + EXPIRY_RETRY;
                }
                Err(error) => {
                    tracing::warn!(sandbox = %sandbox.id, error = causes(&error), "a sandbox is killed");
                    if let Err(error) = self.kill(&sandbox).await {
                        tracing::error!(sandbox = %sandbox.id, error = causes(&error), "a sandbox can't be killed");
                        not_before = Instant::now() + EXPIRY_RETRY;
                    }
                }
            }
            if self.get(&sandbox.id).is_err() {
                return;
            }
        }
    }
}
