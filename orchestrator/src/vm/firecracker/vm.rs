//! A machine in a Firecracker process: hold, snapshot, checkpoint, and the channel to its guest.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ironclaw_protocol::VSOCK_PORT;
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::api::{ApiError, Client, Drive, SnapshotCreate, SnapshotType, Vm};
use super::chroot::{Chroot, disk_path};
use super::vsock;
use crate::vm::vmm::blocking::blocking_in_vmm;
use crate::vm::vmm::disks::OpenDisks;
use crate::vm::vmm::process::Process;
use crate::vm::vmm::{
    DiskId, Exit, Images, Machine, MicroVm, SavedFiles, Scratch, VmmError, VmmProcess,
};

/// The name of the vsock's socket in a VM's directory.
pub(super) const VSOCK: &str = "vsock.sock";
/// Names of a snapshot's files in a chroot.
pub(super) const VMSTATE: &str = "vmstate";
pub(super) const MEMORY: &str = "memory";
/// Names of those that it writes while it has its own.
const CHECKPOINT_VMSTATE: &str = "checkpoint-vmstate";
const CHECKPOINT_MEMORY: &str = "checkpoint-memory";

/// Pauses between attempts to connect to an agent that is not up: vsock has no event for a program
/// that starts to listen.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// A machine that runs in a Firecracker process.
pub struct FirecrackerVm {
    process: Process,
    api: Client,
    pub(super) chroot: Chroot,
    channel_taken: bool,
    pub(super) writes: Writes,
    machine: Machine,
    disks: Arc<OpenDisks>,
    started_in: Duration,
}

/// The part of memory that a VM's snapshot writes.
pub(super) enum Writes {
    /// All of it.
    Full,
    /// The pages written since the boot, or since the snapshot that has this memory file.
    Since(Option<File>),
}

impl fmt::Debug for FirecrackerVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirecrackerVm")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl FirecrackerVm {
    /// Returns the machine of a process whose API answers; it has nothing loaded yet.
    pub(super) fn new(
        process: Process,
        api: Client,
        chroot: Chroot,
        machine: Machine,
        started_in: Duration,
    ) -> Self {
        Self {
            process,
            api,
            chroot,
            channel_taken: false,
            writes: Writes::Full,
            machine,
            disks: Arc::default(),
            started_in,
        }
    }

    /// Marks it as started before anyone asked: what it took is nobody's time.
    pub(super) fn started_before(self) -> Self {
        let started_in = Duration::ZERO;
        Self { started_in, ..self }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        Box::pin(self.process.exited())
    }

    /// Kills the process and waits for its cleanup.
    pub(super) async fn end(self) {
        self.process.end().await;
    }
}

#[async_trait]
impl MicroVm for FirecrackerVm {
    fn is_jailed(&self) -> bool {
        self.chroot.is_jail()
    }

    async fn hold(&mut self) -> Result<(), VmmError> {
        self.process.freeze().await
    }

    async fn release(&mut self) -> Result<(), VmmError> {
        self.process.thaw().await
    }

    async fn snapshot(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        self.converse("pause", async |api| api.call(&Vm::Paused).await)
            .await?;
        let create = SnapshotCreate {
            snapshot_type: match self.writes {
                Writes::Full => SnapshotType::Full,
                Writes::Since(_) => SnapshotType::Diff,
            },
            snapshot_path: self.chroot.prepare_output(vmstate, VMSTATE)?,
            mem_file_path: self.chroot.prepare_output(memory, MEMORY)?,
        };
        self.converse("write a snapshot", async |api| api.call(&create).await)
            .await?;
        self.save_disks(disks).await?;
        self.chroot.retrieve(vmstate, VMSTATE)?;
        self.chroot.retrieve(memory, MEMORY)?;
        if let Writes::Since(base) = &mut self.writes {
            let before = base.take();
            let written = memory.to_owned();
            let complete = move || completed(&written, before);
            let operation = "complete the memory of a snapshot";
            *base = Some(blocking_in_vmm(operation, complete).await?);
        }
        Ok(())
    }

    async fn checkpoint(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        let create = SnapshotCreate {
            // Diff would take the tracking of written pages, which costs clones time.
            snapshot_type: SnapshotType::Full,
            snapshot_path: self.chroot.prepare_output(vmstate, CHECKPOINT_VMSTATE)?,
            mem_file_path: self.chroot.prepare_output(memory, CHECKPOINT_MEMORY)?,
        };
        // Its connections are reset, whether it succeeds or not.
        self.channel_taken = false;
        let written = self.converse("write a checkpoint", async |api| {
            api.call(&Vm::Paused).await?;
            api.call(&create).await
        });
        let mut written = written.await;
        if written.is_ok() {
            written = self.save_disks(disks).await;
        }
        let went_on = self.converse("go on", async |api| api.call(&Vm::Resumed).await);
        let went_on = went_on.await;
        if went_on.is_err() {
            self.process.kill();
        }
        written.and(went_on)?;
        self.chroot.retrieve(vmstate, CHECKPOINT_VMSTATE)?;
        self.chroot.retrieve(memory, CHECKPOINT_MEMORY)
    }

    fn checkpoint_ends_channel(&self) -> bool {
        true
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        if self.channel_taken {
            return Err(VmmError::NoChannel);
        }
        // Without a timeout of its own, until the VM ends: the caller has one.
        let connected = async {
            let mut pause = FIRST_PAUSE;
            loop {
                if let Some(stream) = vsock::connect(&self.chroot, VSOCK, VSOCK_PORT).await? {
                    return Ok::<_, io::Error>(stream);
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        let operation = "connect to the guest's agent";
        let stream = tokio::select! {
            connected = connected => match connected {
                // Connections are refused because the process has ended, which is reported in a
                // moment.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused
                            | ErrorKind::ConnectionReset
                            | ErrorKind::NotFound
                    ) =>
                {
                    let exit = self.process.end().await;
                    return Err(VmmError::Died { operation, exit });
                }
                connected => connected.map_err(VmmError::io(operation))?,
            },
            exit = self.process.exited() => return Err(VmmError::Died { operation, exit }),
        };
        self.channel_taken = true;
        Ok(stream)
    }

    fn started_in(&self) -> Duration {
        self.started_in
    }

    fn process(&self) -> Arc<dyn VmmProcess> {
        self.process.handle()
    }
}

/// Completes the memory file at `path` with the pages that Firecracker did not write again.
fn completed(path: &Path, before: Option<File>) -> Result<File, VmmError> {
    let failed = || VmmError::io(format!("complete {}", path.display()));
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(failed())?;
    if let Some(before) = before {
        let bytes = file.metadata().map_err(failed())?.len();
        ironclaw_store::complete(&file, &before, bytes).map_err(failed())?;
    }
    Ok(file)
}

impl FirecrackerVm {
    /// Puts the disks where the process finds them; returns the requests that attach them.
    pub(super) async fn attach(
        &mut self,
        images: &Images,
        scratch: &Scratch,
    ) -> Result<Vec<Drive>, VmmError> {
        let mut drives = Vec::new();
        for (id, image) in images {
            let path = self.chroot.expose_image(image, id)?;
            drives.push(drive(id, path, true));
        }
        if scratch.is_empty() {
            return Ok(drives);
        }
        let (scratch, chroot, machine) = (scratch.clone(), self.chroot.clone(), self.machine);
        let copied = blocking_in_vmm("copy a disk", move || {
            OpenDisks::copied(&scratch, machine, |id| chroot.create_disk(id))
        });
        let disks = copied.await?;
        drives.extend(disks.iter().map(|(id, _)| drive(id, disk_path(id), false)));
        self.disks = Arc::new(disks);
        Ok(drives)
    }

    /// Saves the disks of a paused VM, whose state was written already: the process may have done
    /// by then what the state has as still to do, and a clone does it again.
    async fn save_disks(&self, files: &Scratch) -> Result<(), VmmError> {
        if self.disks.is_empty() {
            return Ok(());
        }
        let (disks, files, machine) = (Arc::clone(&self.disks), files.clone(), self.machine);
        blocking_in_vmm("save a disk", move || disks.save(machine, &files)).await
    }

    /// Returns this VM, or the error of `done`: then kills the process and waits for its cleanup,
    /// so that what it used on the host, like a tap device, is free again.
    pub(super) async fn kill_on_error(
        self,
        done: Result<(), VmmError>,
    ) -> Result<Box<dyn MicroVm>, VmmError> {
        match done {
            Ok(()) => Ok(Box::new(self)),
            Err(error) => {
                self.process.end().await;
                Err(error)
            }
        }
    }

    /// Makes API requests for `operation`; if the connection breaks, reports the process's end as
    /// the cause.
    pub(super) async fn converse(
        &mut self,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Client) -> Result<(), ApiError>,
    ) -> Result<(), VmmError> {
        match talk(&mut self.api).await {
            Ok(()) => Ok(()),
            Err(ApiError::Closed(_)) => Err(VmmError::Died {
                operation,
                exit: self.process.end().await,
            }),
            Err(error) => Err(refused(operation, error)),
        }
    }
}

fn drive(id: &DiskId, path_on_host: PathBuf, is_read_only: bool) -> Drive {
    Drive {
        drive_id: id.to_string(),
        path_on_host,
        is_root_device: false,
        is_read_only,
    }
}

fn refused(operation: &'static str, error: ApiError) -> VmmError {
    match error {
        ApiError::Refused { message, .. } => VmmError::Refused {
            operation: operation.to_owned(),
            message,
        },
        ApiError::TimedOut { after, .. } => VmmError::TimedOut { operation, after },
        ApiError::Malformed { .. } | ApiError::Closed(_) => VmmError::Protocol {
            operation,
            detail: error.to_string(),
        },
    }
}
