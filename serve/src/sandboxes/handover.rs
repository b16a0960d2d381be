//! What one daemon leaves to the next: sandboxes that are paused, and go on there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, stream};
use ironclaw_orchestrator::vm::dropped_vms_ended;
use tokio::time::{Instant, timeout_at};

use super::Sandboxes;
use crate::causes::causes;
use crate::database::DatabaseError;
use crate::leftovers;
use crate::paused_sandboxes::{Kept, Row};
use crate::sandbox::{Sandbox, SandboxError, State};
use crate::sandbox_id::SandboxId;

/// Sandboxes that are paused at the same time when the daemon ends: each writes its memory.
const PAUSES_AT_A_TIME: usize = 4;

impl Sandboxes {
    /// Takes up the sandboxes that were paused when the last daemon ended, and goes on with those that
    /// ran then. Returns how many there are. What can't be taken up stays in the database, and is told.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn take_up(&self) -> Result<usize, DatabaseError> {
        self.sweep().await;
        self.0.checkpoints.take_up(&self.0.templates).await?;
        let rows = self.0.paused.list()?;
        let mut count = 0;
        for row in rows {
            match self.take_up_one(&row).await {
                Ok(()) => count += 1,
                Err(reason) => {
                    tracing::error!(
                        sandbox = row.id,
                        reason,
                        "a paused sandbox can't be taken up"
                    );
                }
            }
        }
        Ok(count)
    }

    async fn take_up_one(&self, row: &Row) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let id: SandboxId = row.id.parse().map_err(|error| text(&error))?;
        let kept: Kept = serde_json::from_str(&row.record).map_err(|error| text(&error))?;
        let template = self.0.templates.hashed(&kept.record.template_hash);
        let template = template.await.map_err(|error| text(&error))?;
        let memory = template
            .memory(&row.checkpoint, self.0.database.owner())
            .await?;
        let Kept {
            record,
            since,
            left,
            identity,
        } = kept;
        let sandbox = Sandbox::paused(id, record, template, memory, identity, since);
        let sandbox = self.add(sandbox).map_err(|error| text(&error))?;
        if let Some(left) = left {
            let resumed = self.resume(&sandbox, left).await;
            resumed.map_err(|error| text(&error))?;
        }
        Ok(())
    }

    /// Deletes the memory that a daemon left that was killed: what no sandbox and no checkpoint of the
    /// database needs.
    async fn sweep(&self) {
        let (path, owner) = (
            self.0.templates.config().snapshot_path.clone(),
            Arc::clone(self.0.database.owner()),
        );
        let database = self.0.database.clone();
        let swept = tokio::task::spawn_blocking(move || leftovers::sweep(path, &database, &owner));
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                tracing::warn!(reason, "what a former daemon left stays on the disk")
            }
            // The runtime shuts down.
            Err(_) => {}
        }
    }

    /// Pauses all that runs, several at a time, so that the next daemon goes on with it; takes no more.
    /// What is not paused within `limit` is lost, and told.
    pub async fn drain(&self, limit: Duration) {
        let all = {
            let mut table = self.0.lock();
            table.draining = true;
            table.by_id.values().cloned().collect::<Vec<_>>()
        };
        let until = Instant::now() + limit;
        stream::iter(&all)
            .for_each_concurrent(PAUSES_AT_A_TIME, |sandbox| self.hand_over(sandbox, until))
            .await;
        self.0.paused.forget_the_gone();
        self.0.templates.close().await;
        dropped_vms_ended().await;
    }

    /// Pauses a sandbox for the next daemon.
    async fn hand_over(&self, sandbox: &Sandbox, until: Instant) {
        let status = sandbox.status();
        if status.state == State::Paused {
            return;
        }
        let left = status.end.duration_since(SystemTime::now());
        let left = left.unwrap_or(Duration::ZERO);
        match timeout_at(until, sandbox.pause(&self.0.paused, Some(left))).await {
            Ok(Ok(_)) => tracing::info!(sandbox = %sandbox.id, "kept for the next daemon"),
            // Somebody has ended it meanwhile.
            Ok(Err(SandboxError::Gone)) => {}
            Ok(Err(error)) => {
                tracing::error!(sandbox = %sandbox.id, error = causes(&error), "a sandbox is lost")
            }
            Err(_) => {
                tracing::error!(sandbox = %sandbox.id, "a sandbox is lost: there was no time")
            }
        }
    }
}
