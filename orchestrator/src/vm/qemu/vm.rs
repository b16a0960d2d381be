//! A machine in a QEMU process: hold, snapshot, checkpoint, and the channel to its guest.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::binary::PROGRAM;
use super::migration::{capabilities, migrated};
use super::qmp::{Qmp, QmpError};
use super::saved_file::{create_private, ram_file};
use super::state_stream;
use crate::vm::vmm::blocking::blocking_in_vmm;
use crate::vm::vmm::disks::OpenDisks;
use crate::vm::vmm::process::Process;
use crate::vm::vmm::{Machine, MicroVm, SavedFiles, Scratch, VmmError, VmmProcess};

/// Timeout of a QMP answer, which takes milliseconds.
const QMP_TIMEOUT: Duration = Duration::from_secs(20);
/// Extra time for a checkpoint per MiB of memory: a slow disk writes 50 of them in a second.
const CHECKPOINT_TIME_PER_MIB: Duration = Duration::from_millis(20);
/// The bytes per second that QEMU writes of itself at most: it is no other host that they go to.
const MAX_BANDWIDTH: u64 = 1 << 40;

/// A machine that runs in a QEMU process.
#[derive(Debug)]
pub struct QemuVm {
    process: Process,
    qmp: Qmp,
    channel: Option<UnixStream>,
    pub(super) ram_is_shared: bool,
    pub(super) is_jailed: bool,
    machine: Machine,
    disks: Arc<OpenDisks>,
    pub(super) started_in: Duration,
}

impl QemuVm {
    /// Returns the machine of a process that was just started.
    pub(super) fn new(
        process: Process,
        qmp: Qmp,
        channel: UnixStream,
        machine: Machine,
        disks: OpenDisks,
    ) -> Self {
        Self {
            process,
            qmp,
            channel: Some(channel),
            ram_is_shared: false,
            is_jailed: false,
            machine,
            disks: Arc::new(disks),
            started_in: Duration::ZERO,
        }
    }

    /// Kills the process and waits for its end.
    pub(super) async fn end(self) {
        self.process.end().await;
    }
}

#[async_trait]
impl MicroVm for QemuVm {
    fn is_jailed(&self) -> bool {
        self.is_jailed
    }

    async fn hold(&mut self) -> Result<(), VmmError> {
        self.converse("hold", async |qmp| qmp.execute("stop", json!({})).await)
            .await
    }

    async fn release(&mut self) -> Result<(), VmmError> {
        // Somebody may have stopped the process with a signal: it could not answer then.
        self.process.thaw().await?;
        self.converse("release", async |qmp| qmp.execute("cont", json!({})).await)
            .await
    }

    async fn snapshot(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        if !self.ram_is_shared {
            return Err(VmmError::Refused {
                operation: format!("write a snapshot to {}", memory.display()),
                message: "this VM was not booted with its RAM in a file".to_owned(),
            });
        }
        let state = create_private(vmstate)
            .map_err(VmmError::io(format!("create {}", vmstate.display())))?;
        self.converse("pause", async |qmp| qmp.execute("stop", json!({})).await)
            .await?;
        self.converse("write a snapshot", async |qmp| {
            qmp.send("migrate-set-capabilities", capabilities()).await?;
            qmp.pass_fd("state", state.as_fd()).await?;
            qmp.execute("migrate", json!({ "uri": "fd:state" })).await?;
            migrated(qmp).await
        })
        .await?;
        self.save_disks(disks).await
    }

    async fn checkpoint(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        let ram = ram_file(memory, self.machine)?;
        let state = create_private(vmstate)
            .map_err(VmmError::io(format!("create {}", vmstate.display())))?;
        let (stream, end) = io::pipe().map_err(VmmError::io("make a pipe for QEMU"))?;
        let ram_bytes = self.machine.memory_bytes();
        let split = spawn_blocking(move || {
            state_stream::split(stream, ram_bytes, &File::from(ram), &state)
        });
        let operation = "write a checkpoint";
        let limit = QMP_TIMEOUT + CHECKPOINT_TIME_PER_MIB * self.machine.memory_mib;
        self.converse("hold", async |qmp| qmp.execute("stop", json!({})).await)
            .await?;
        let sent = self.converse_within(limit, operation, async |qmp| {
            qmp.send("migrate-set-capabilities", capabilities()).await?;
            let unlimited = json!({ "max-bandwidth": MAX_BANDWIDTH });
            qmp.send("migrate-set-parameters", unlimited).await?;
            qmp.pass_fd("state", end.as_fd()).await?;
            qmp.execute("migrate", json!({ "uri": "fd:state" })).await?;
            migrated(qmp).await
        });
        let sent = sent.await;
        drop(end);
        // QEMU closes the stream once the migration is finalized; until then it refuses to go on.
        let mut written = match sent {
            Ok(()) => match timeout(QMP_TIMEOUT, split).await {
                Ok(Ok(written)) => written.map_err(VmmError::io(format!(
                    "write {} and {}",
                    vmstate.display(),
                    memory.display()
                ))),
                Ok(Err(error)) => Err(VmmError::io(operation)(error.into())),
                Err(_) => Err(VmmError::TimedOut {
                    operation,
                    after: QMP_TIMEOUT,
                }),
            },
            Err(error) => Err(error),
        };
        if written.is_ok() {
            written = self.save_disks(disks).await;
        }
        let went_on = self
            .converse("go on", async |qmp| qmp.execute("cont", json!({})).await)
            .await;
        if went_on.is_err() {
            self.process.kill();
        }
        written.and(went_on)
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        self.channel.take().ok_or(VmmError::NoChannel)
    }

    fn started_in(&self) -> Duration {
        self.started_in
    }

    fn process(&self) -> Arc<dyn VmmProcess> {
        self.process.handle()
    }
}

impl QemuVm {
    /// Saves the disks of a stopped guest, none of whose requests is under way.
    async fn save_disks(&self, files: &Scratch) -> Result<(), VmmError> {
        if self.disks.is_empty() {
            return Ok(());
        }
        let (disks, files, machine) = (Arc::clone(&self.disks), files.clone(), self.machine);
        blocking_in_vmm("save a disk", move || disks.save(machine, &files)).await
    }

    /// Fails unless the process is QEMU itself; waits for the end of another.
    pub(super) async fn is_itself(&self, speaker: i32, binary: &Path) -> Result<(), VmmError> {
        if self.process.speaks_itself(speaker).await {
            return Ok(());
        }
        Err(VmmError::not_itself(PROGRAM, binary, speaker))
    }

    /// Runs a QMP conversation for `operation`, with a timeout; if the connection breaks, reports
    /// the process's end as the cause.
    pub(super) async fn converse(
        &mut self,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Qmp) -> Result<(), QmpError>,
    ) -> Result<(), VmmError> {
        self.converse_within(QMP_TIMEOUT, operation, talk).await
    }

    /// Runs a conversation with a timeout of its own.
    async fn converse_within(
        &mut self,
        limit: Duration,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Qmp) -> Result<(), QmpError>,
    ) -> Result<(), VmmError> {
        match timeout(limit, talk(&mut self.qmp)).await {
            Ok(Ok(())) => Ok(()),
            // A closed monitor is the first sign of an exit; the supervisor knows the reason.
            Ok(Err(QmpError::Io(_))) => Err(VmmError::Died {
                operation,
                exit: self.process.end().await,
            }),
            Ok(Err(error)) => Err(protocol(operation, &error)),
            Err(_) => Err(VmmError::TimedOut {
                operation,
                after: limit,
            }),
        }
    }
}

fn protocol(operation: &'static str, error: &QmpError) -> VmmError {
    match error {
        QmpError::Refused { command, message } => VmmError::Refused {
            operation: format!("{operation} ({command})"),
            message: message.clone(),
        },
        QmpError::Io(error) => VmmError::Protocol {
            operation,
            detail: error.to_string(),
        },
        QmpError::Malformed(detail) => VmmError::Protocol {
            operation,
            detail: detail.clone(),
        },
    }
}
