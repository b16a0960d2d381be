//! What becomes of a sandbox: it is checkpointed, paused, resumed and ended, one change at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::CheckpointOptions;
use tokio::time::Instant;

use super::{Phase, Ran, Sandbox, SandboxError, Status, spawn_options};
use crate::host_fault::HostFault;
use crate::memory::Memory;
use crate::paused_sandboxes::{Kept, PausedSandboxes};
use crate::process::Processes;
use crate::record::Expiry;

impl Sandbox {
    /// Writes its memory, and goes on.
    pub(crate) async fn checkpoint(&self, owner: &Arc<str>) -> Result<Memory, SandboxError> {
        match &*self.phase.lock().await {
            Phase::Running(ran) => self.written(ran, owner).await,
            Phase::Paused(..) => Err(SandboxError::Paused),
            Phase::Gone => Err(SandboxError::Gone),
        }
    }

    async fn written(&self, ran: &Ran, owner: &Arc<str>) -> Result<Memory, SandboxError> {
        let options = CheckpointOptions::owned_by(owner.to_string());
        let snapshot = ran.vm.checkpoint(options).await?;
        let store = self.template.pool.launcher().snapshots().clone();
        Ok(Memory::new(snapshot, store, Arc::clone(owner)))
    }

    /// Writes its memory and ends its VM; returns whether it ran. One that can't be kept runs on.
    pub(crate) async fn pause(
        &self,
        kept: &PausedSandboxes,
        left: Option<Duration>,
    ) -> Result<bool, SandboxError> {
        let mut phase = self.phase.lock().await;
        self.pause_from(&mut phase, kept, left).await
    }

    async fn pause_from(
        &self,
        phase: &mut Phase,
        kept: &PausedSandboxes,
        left: Option<Duration>,
    ) -> Result<bool, SandboxError> {
        let ran = match &*phase {
            Phase::Running(ran) => ran,
            Phase::Paused(..) => return Ok(false),
            Phase::Gone => return Err(SandboxError::Gone),
        };
        let memory = self.written(ran, kept.owner()).await?;
        let (identity, since) = (ran.vm.identity(), SystemTime::now());
        let row = Kept {
            record: self.record.clone(),
            since,
            left,
            identity: identity.clone(),
        };
        // Before its VM ends: whatever happens then, it is there.
        if let Err(error) = kept.keep(&self.id, memory.id(), &row) {
            memory.give_up();
            memory.leave().await;
            return Err(error.into());
        }
        let before = std::mem::replace(phase, Phase::Paused(memory, identity));
        *self.lock() = Status::paused(since);
        self.changed.notify_one();
        if let Phase::Running(ran) = before {
            self.end(*ran).await;
        }
        Ok(true)
    }

    /// Goes on with a paused one; returns whether it was paused. One that runs gets a later deadline. Its
    /// memory on disk goes with its VM.
    pub(crate) async fn resume(
        &self,
        kept: &PausedSandboxes,
        lifetime: Duration,
    ) -> Result<bool, SandboxError> {
        let mut phase = self.phase.lock().await;
        let (memory, identity) = match &*phase {
            Phase::Running(_) => {
                self.move_deadline(lifetime);
                return Ok(false);
            }
            Phase::Paused(memory, identity) => (memory.clone(), identity),
            Phase::Gone => return Err(SandboxError::Gone),
        };
        let options = spawn_options(&self.id, &self.record);
        let pool = &self.template.pool;
        let vm = match identity {
            Some(identity) => pool.resume(memory.snapshot(), identity, options).await?,
            None => pool.fork(memory.snapshot(), options).await?,
        };
        let ran = Ran {
            vm,
            processes: Processes::new(&self.log),
            ports: Arc::default(),
            watchers: Arc::default(),
            from: Some(memory.clone()),
        };
        // What the database still has would come back as it was then, beside what has gone on.
        if let Err(error) = kept.forget(&self.id) {
            self.end(ran).await;
            return Err(error.into());
        }
        memory.give_up();
        *phase = Phase::Running(Box::new(ran));
        *self.lock() = Status::until(lifetime);
        self.changed.notify_one();
        Ok(true)
    }

    /// Ends it for good, and tells as soon as that is certain; returns whether it was there. One that the
    /// database can't forget stays.
    pub(crate) async fn kill(
        &self,
        kept: &PausedSandboxes,
        is_gone: impl FnOnce(),
    ) -> Result<bool, SandboxError> {
        let mut phase = self.phase.lock().await;
        self.kill_from(&mut phase, kept, is_gone).await
    }

    async fn kill_from(
        &self,
        phase: &mut Phase,
        kept: &PausedSandboxes,
        is_gone: impl FnOnce(),
    ) -> Result<bool, SandboxError> {
        // Before its memory goes, so that it never comes back without. On a full disk, that makes the room.
        let is_kept_on = match phase {
            Phase::Paused(..) => match kept.forget(&self.id) {
                Ok(()) => false,
                Err(error) if HostFault::of(&error) == Some(HostFault::DiskFull) => true,
                Err(error) => return Err(error.into()),
            },
            Phase::Running(_) | Phase::Gone => false,
        };
        let before = std::mem::replace(phase, Phase::Gone);
        is_gone();
        self.changed.notify_one();
        match before {
            Phase::Running(ran) => self.end(*ran).await,
            Phase::Paused(memory, _) => {
                memory.give_up();
                memory.leave().await;
            }
            Phase::Gone => return Ok(false),
        }
        self.log.close();
        if is_kept_on {
            kept.forget_later(self.id.clone());
        }
        Ok(true)
    }

    /// Ends or pauses it if its deadline is past, which may have moved meanwhile.
    pub(crate) async fn expire(
        &self,
        kept: &PausedSandboxes,
        is_gone: impl FnOnce(),
    ) -> Result<(), SandboxError> {
        let mut phase = self.phase.lock().await;
        if self.deadline().is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        let done = match self.record.expiry {
            Expiry::Kill => self.kill_from(&mut phase, kept, is_gone).await,
            Expiry::Pause => self.pause_from(&mut phase, kept, None).await,
        };
        done.map(drop)
    }

    async fn end(&self, ran: Ran) {
        let Ran { vm, from, .. } = ran;
        if let Err(error) = vm.destroy().await {
            tracing::warn!(sandbox = %self.id, %error, "a VM has not ended in time");
        }
        if let Some(memory) = from {
            memory.leave().await;
        }
    }
}
