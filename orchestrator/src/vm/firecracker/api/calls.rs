//! The requests of the API.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::call::{Call, Method};

/// Timeout of requests that read or write all of a guest's memory, which takes long on a slow disk.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(60);

macro_rules! call {
    ($name:ty, $method:ident, $path:expr) => {
        call!($name, $method, $path, (), Duration::from_secs(10));
    };
    ($name:ty, $method:ident, $path:expr, $answer:ty, $timeout:expr) => {
        impl Call for $name {
            type Answer = $answer;
            const METHOD: Method = Method::$method;
            const TIMEOUT: Duration = $timeout;
            fn path(&self) -> String {
                let path: fn(&Self) -> String = $path;
                path(self)
            }
        }
    };
}

/// `GET /`: describes the process.
#[derive(Debug, Clone, Serialize)]
pub struct GetInstance;
call!(
    GetInstance,
    Get,
    |_| "/".to_owned(),
    InstanceInfo,
    Duration::from_secs(10)
);

/// The description of a Firecracker process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// Always `Firecracker`.
    pub app_name: String,
    /// The value of `--id`.
    pub id: String,
    /// The state of its virtual machine.
    pub state: InstanceState,
    /// Firecracker's version.
    pub vmm_version: String,
}

/// The state of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum InstanceState {
    /// Neither booted nor restored.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs are paused.
    Paused,
}

/// `GET /version`.
#[derive(Debug, Clone, Serialize)]
pub struct GetVersion;
call!(
    GetVersion,
    Get,
    |_| "/version".to_owned(),
    FirecrackerVersion,
    Duration::from_secs(10)
);

/// The version of a Firecracker process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FirecrackerVersion {
    /// Without a leading `v`.
    pub firecracker_version: String,
}

/// `PUT /machine-config`; only before the start.
#[derive(Debug, Clone, Serialize)]
pub struct MachineConfiguration {
    /// Number of vCPUs, 1 to 32.
    pub vcpu_count: u8,
    /// Memory in MiB.
    pub mem_size_mib: u32,
    /// Whether to track dirty pages for [`SnapshotType::Diff`]; slows the guest down.
    pub track_dirty_pages: bool,
}
call!(MachineConfiguration, Put, |_| "/machine-config".to_owned());

/// `PUT /boot-source`; only before the start.
#[derive(Debug, Clone, Serialize)]
pub struct BootSource {
    /// An ELF image, or a bzImage since 1.17 on x86-64.
    pub kernel_image_path: PathBuf,
    /// The image of an initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<PathBuf>,
    /// Arguments of the kernel, if not Firecracker's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}
call!(BootSource, Put, |_| "/boot-source".to_owned());

/// `PUT /cpu-config`: a CPU template, the content of its JSON file; only before the start
/// (docs/cpu_templates/cpu-templates.md).
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct CpuConfig(serde_json::Value);

impl CpuConfig {
    /// Parses the content of a template's file.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn from_json(json: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(json).map(Self)?)
    }
}
call!(CpuConfig, Put, |_| "/cpu-config".to_owned());

/// `PUT /drives/{drive_id}`: a block device; only before the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its name: letters, digits and underscores.
    pub drive_id: String,
    /// The path of a file or a block device.
    pub path_on_host: PathBuf,
    /// Whether the kernel is told to mount it as `/`.
    pub is_root_device: bool,
    /// Whether writes fail.
    pub is_read_only: bool,
}
call!(Drive, Put, |drive| format!("/drives/{}", drive.drive_id));

/// `PUT /network-interfaces/{iface_id}`; only before the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Its name: letters, digits and underscores.
    pub iface_id: String,
    /// The name of a tap device on the host.
    pub host_dev_name: String,
    /// The MAC address, `06:00:…`, if not chosen by the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
}
call!(NetworkInterface, Put, |interface| format!(
    "/network-interfaces/{}",
    interface.iface_id
));

/// `PUT /vsock`; only before the start.
#[derive(Debug, Clone, Serialize)]
pub struct Vsock {
    /// The guest's context id, at least 3.
    pub guest_cid: u32,
    /// The path of the socket that Firecracker creates for connections to the guest.
    pub uds_path: PathBuf,
}
call!(Vsock, Put, |_| "/vsock".to_owned());

/// `PUT /entropy`: a virtio-rng device; only before the start.
#[derive(Debug, Clone, Serialize)]
pub struct Entropy {}
call!(Entropy, Put, |_| "/entropy".to_owned());

/// `PUT /actions`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Boots the guest, once.
    InstanceStart,
}
call!(Action, Put, |_| "/actions".to_owned());

/// `PATCH /vm`: pauses or resumes the vCPUs. Idempotent.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state")]
pub enum Vm {
    /// Pauses.
    Paused,
    /// Resumes.
    Resumed,
}
call!(Vm, Patch, |_| "/vm".to_owned());

/// `PUT /snapshot/create`; only while paused.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotCreate {
    /// The part of memory to write.
    pub snapshot_type: SnapshotType,
    /// The path of the new file for the state of vCPUs and devices.
    pub snapshot_path: PathBuf,
    /// The path of the file for memory.
    pub mem_file_path: PathBuf,
}
call!(
    SnapshotCreate,
    Put,
    |_| "/snapshot/create".to_owned(),
    (),
    MEMORY_TIMEOUT
);

/// The part of memory in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    /// All of it.
    Full,
    /// The pages written since the boot or the snapshot before; the rest are holes.
    Diff,
}

/// `PUT /snapshot/load`; only before any other configuration. A failure ends the process.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotLoad {
    /// The path of the file with the state of vCPUs and devices.
    pub snapshot_path: PathBuf,
    /// The source of memory.
    pub mem_backend: MemBackend,
    /// Whether to resume the vCPUs at once.
    pub resume_vm: bool,
    /// Whether to track dirty pages for a later [`SnapshotType::Diff`], which otherwise uses the
    /// pages that are resident (mincore).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// Tap devices that replace those of the snapshot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
    /// The vsock device's socket that replaces the snapshot's. Since 1.16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// Whether the guest's clock continues at the present time, not at the snapshot's; x86-64.
    /// Since 1.16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_realtime: Option<bool>,
}
call!(
    SnapshotLoad,
    Put,
    |_| "/snapshot/load".to_owned(),
    (),
    MEMORY_TIMEOUT
);

/// The source of a restored guest's memory.
#[derive(Debug, Clone, Serialize)]
pub struct MemBackend {
    /// The kind of `backend_path`.
    pub backend_type: MemBackendType,
    /// The path of the file or socket.
    pub backend_path: PathBuf,
}

/// The kind of a memory source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MemBackendType {
    /// A file, mapped privately: it must not change while the guest lives.
    File,
    /// The socket of a process that handles page faults (userfaultfd).
    Uffd,
}

/// A tap device that replaces a snapshot's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkOverride {
    /// The name of the interface.
    pub iface_id: String,
    /// The name of the tap device.
    pub host_dev_name: String,
}

/// A socket that replaces a snapshot's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockOverride {
    /// The path at which Firecracker creates it.
    pub uds_path: PathBuf,
}

#[cfg(test)]
mod tests;
