//! The life of one VM, from its spawn to its end.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_orchestrator::vm::{Timings, VmHandle};

use super::faults::Faults;

/// The times in a VM's life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    /// The spawn, with the total as seen by the caller.
    pub(super) timings: Timings,
    /// One `echo` in the guest after that.
    pub(super) exec: Duration,
    /// The time from the request until its process was gone.
    pub(super) destroy: Duration,
    /// Page faults of the VMM from the spawn to the echo's answer.
    pub(super) faults: Faults,
}

impl Life {
    /// Measures the VM of `spawn`. `faults_before` returns the earlier page faults of a process
    /// that exists already.
    pub(super) async fn of<E>(
        spawn: impl Future<Output = Result<VmHandle, E>> + Send + 'static,
        faults_before: impl FnOnce(u32) -> Faults,
    ) -> Result<Self>
    where
        E: Into<anyhow::Error> + Send + 'static,
    {
        let (handle, total) = spawned(spawn).await?;
        let pid = handle.pid();
        let mut timings = handle.timings();
        timings.total = total;
        let start = Instant::now();
        let output = handle.exec(["echo", "bench"]).await?;
        let exec = start.elapsed();
        ensure!(
            output.status.success(),
            "echo in the guest: {}",
            output.status
        );
        let faults = Faults::of(pid)? - faults_before(pid);
        let start = Instant::now();
        handle.destroy().await?;
        Ok(Self {
            timings,
            exec,
            destroy: start.elapsed(),
            faults,
        })
    }
}

/// Spawns like a server: in a task, not on the thread that waits for the runtime.
async fn spawned<E>(
    spawn: impl Future<Output = Result<VmHandle, E>> + Send + 'static,
) -> Result<(VmHandle, Duration)>
where
    E: Into<anyhow::Error> + Send + 'static,
{
    let timed = async {
        let start = Instant::now();
        let handle = spawn.await;
        (handle, start.elapsed())
    };
    let (handle, took) = tokio::spawn(timed).await.context("a task failed")?;
    Ok((handle.map_err(Into::into)?, took))
}
