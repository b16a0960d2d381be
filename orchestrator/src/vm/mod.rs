//! Throw-away virtual machines, from a pool of snapshots.
//!
//! ```text
//!             spawn_vm                               destroy_vm, drop,
//!                │                                   or the guest's end
//!   warm clone ──┤ resume, new identity                     │
//!   snapshot ────┤ restore, resume, new identity ──▶ leased ─┴─▶ gone
//!   template ────┘ boot, new identity
//! ```
//!
//! The highest tier that can serves a spawn: [`VmHandle::origin`] tells which one it was, and
//! [`pool_stats`] counts them. The free functions use one pool per process, configured by the
//! environment ([`Config`]); [`Launcher`] and [`Pool`] are for several pools, or other settings.
//!
//! # Panics
//! All futures here have to be polled in a Tokio runtime, whose timers and I/O are enabled
//! (`enable_all`), and panic in another one. What is no future needs none, unless its documentation
//! says so.

pub mod backend;
pub mod backends;
mod causes;
mod checkpoint;
pub mod config;
mod config_builder;
mod error_kind;
#[cfg(test)]
mod error_texts;
mod exit_reason;
#[cfg(feature = "firecracker")]
pub mod firecracker;
pub mod guest;
mod identity;
mod instance;
#[cfg(any(feature = "firecracker", feature = "qemu"))]
mod kvm;
mod launcher;
mod lifecycle;
mod limits;
mod node;
mod pool;
#[cfg(feature = "qemu")]
pub mod qemu;
mod shared_pool;
pub mod snapshot;
#[cfg(all(feature = "debian", feature = "oci"))]
mod template_guests;
mod vm_client;
mod vm_handle;
mod vm_id;
mod vm_task;
#[cfg_attr(
    not(all(feature = "firecracker", feature = "qemu")),
    allow(
        dead_code,
        unused_imports,
        reason = "a part of it is for one backend alone"
    )
)]
pub mod vmm;
mod vms;

use ironclaw_host::{flock, host_limits, own_groups, proc, tree};

pub use checkpoint::{CheckpointError, CheckpointOptions};
pub use config::{Config, ConfigError};
pub use config_builder::ConfigBuilder;
pub use error_kind::{ErrorKind, is_retryable};
pub use exit_reason::ExitReason;
pub use guest::{
    ArchiveReader, ArchiveSummary, ArchiveWriter, ChangeKind, ChangeListing, Command, CommandId,
    Events, ExecEvent, ExitStatus, ExtractSummary, FailureKind, FileChange, FileEvent,
    FileEventKind, FileEvents, FileInfo, FileKind, FileReader, FileWatch, FileWriter, Files,
    GuestError, InputStream, KnownCommand, Listing, Output, OutputStream, Owners, PortStream,
    Position, Printed, Running, StdinWriter, Streams, TerminalSize, WriteOptions,
};
pub use host_limits::raise_open_files;
pub use identity::{BadName, VmIdentity};
pub use instance::VmError;
pub use launcher::{
    Created, LaunchError, Launcher, PassedOver, Progress, Stage, Warmed, find_guest_agent,
    probe_file,
};
pub use lifecycle::{Denied, STOP_GRACE, State};
pub use limits::Limits;
pub use pool::{
    Budget, Footprint, Limit, Pool, PoolError, PoolOptions, PoolStats, ProcessMemory, Quantiles,
    SNAPSHOT_BUDGET, SpawnError, SpawnOptions, SpawnStage, TierOff, Tiers, VMM_MIB,
};
#[cfg(feature = "prometheus")]
pub use shared_pool::prometheus_text;
pub use shared_pool::{
    close_pool, destroy_vm, get, list, pool_footprint, pool_stats, pools, refresh_pool, spawn_vm,
    spawn_vm_from, spawn_vm_on, spawn_vm_with, warmup_pool,
};
#[cfg(all(feature = "debian", feature = "oci"))]
pub use template_guests::{EndSteps, ProgramFailed, STEP_TIMEOUT, StepOutput, TemplateGuests};
pub use vm_client::{Stopped, VmClient};
pub use vm_handle::{DestroyError, Origin, Timings, VmHandle};
pub use vm_id::{ParseVmIdError, VmId};
pub use vmm::run_directory::check_run_path;

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
pub(crate) mod fuzz {
    /// Parses texts of `/proc` about a process, and names of files in a run directory.
    pub(crate) fn process(bytes: &[u8], text: &str) {
        super::proc::fuzz(bytes, text);
        super::vmm::orphan::fuzz(text);
    }
}

/// Resolves when every VM dropped until now has ended and is cleaned up. For programs that are
/// about to end: the next one to start would sweep the rest. For VMs of a hypervisor that was not
/// found by [`Launcher::open`], see [`Vmm::dropped_ended`](vmm::Vmm::dropped_ended).
pub async fn dropped_vms_ended() {
    node::Node::of_process().rundown().ended().await;
}
