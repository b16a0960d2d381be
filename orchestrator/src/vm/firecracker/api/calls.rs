//! The requests.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use super::call::Call;

/// Reading or writing all of a guest's memory may take this long on a slow disk.
const WITH_MEMORY: Duration = Duration::from_secs(60);

macro_rules! call {
    ($name:ty, $method:ident, $path:expr) => {
        call!($name, $method, $path, (), Duration::from_secs(10));
    };
    ($name:ty, $method:ident, $path:expr, $answer:ty, $patience:expr) => {
        impl Call for $name {
            type Answer = $answer;
            const METHOD: Method = Method::$method;
            const PATIENCE: Duration = $patience;
            fn path(&self) -> String {
                let path: fn(&Self) -> String = $path;
                path(self)
            }
        }
    };
}

/// `GET /`: what the process is and does.
#[derive(Debug, Clone, Serialize)]
pub struct GetInstance;
call!(
    GetInstance,
    GET,
    |_| "/".to_owned(),
    InstanceInfo,
    Duration::from_secs(10)
);

/// What a Firecracker process is and does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// `Firecracker`.
    pub app_name: String,
    /// As given by `--id`.
    pub id: String,
    /// Of its virtual machine.
    pub state: InstanceState,
    /// Of Firecracker.
    pub vmm_version: String,
}

/// The state of a virtual machine, as Firecracker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum InstanceState {
    /// Neither booted nor restored.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its processors run.
    Running,
    /// Its processors stand.
    Paused,
}

/// `GET /version`.
#[derive(Debug, Clone, Serialize)]
pub struct GetVersion;
call!(
    GetVersion,
    GET,
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

/// `PUT /machine-config`; before the start.
#[derive(Debug, Clone, Serialize)]
pub struct MachineConfiguration {
    /// 1 to 32.
    pub vcpu_count: u8,
    /// Memory in MiB.
    pub mem_size_mib: u32,
    /// Whether [`SnapshotType::Diff`] tells written pages from others; costs speed while the
    /// guest runs.
    pub track_dirty_pages: bool,
}
call!(MachineConfiguration, PUT, |_| "/machine-config".to_owned());

/// `PUT /boot-source`; before the start.
#[derive(Debug, Clone, Serialize)]
pub struct BootSource {
    /// An ELF image, or a bzImage since 1.17 on x86-64.
    pub kernel_image_path: PathBuf,
    /// An initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<PathBuf>,
    /// Arguments of the kernel; Firecracker's own are used without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}
call!(BootSource, PUT, |_| "/boot-source".to_owned());

/// `PUT /cpu-config`: a CPU template, the content of its JSON file; before the start
/// (docs/cpu_templates/cpu-templates.md).
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct CpuConfig(pub serde_json::Value);
call!(CpuConfig, PUT, |_| "/cpu-config".to_owned());

/// `PUT /drives/{drive_id}`: a block device; before the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Letters, digits and underscores.
    pub drive_id: String,
    /// A file or a block device.
    pub path_on_host: PathBuf,
    /// Whether the kernel is told to mount it as `/`.
    pub is_root_device: bool,
    /// Whether writes fail.
    pub is_read_only: bool,
}
call!(Drive, PUT, |drive| format!("/drives/{}", drive.drive_id));

/// `PUT /network-interfaces/{iface_id}`; before the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Letters, digits and underscores.
    pub iface_id: String,
    /// A tap device of the host.
    pub host_dev_name: String,
    /// `06:00:…`; chosen by the guest without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
}
call!(NetworkInterface, PUT, |interface| format!(
    "/network-interfaces/{}",
    interface.iface_id
));

/// `PUT /vsock`; before the start.
#[derive(Debug, Clone, Serialize)]
pub struct Vsock {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// The socket that Firecracker makes for connections to the guest.
    pub uds_path: PathBuf,
}
call!(Vsock, PUT, |_| "/vsock".to_owned());

/// `PUT /entropy`: a virtio-rng device; before the start.
#[derive(Debug, Clone, Serialize)]
pub struct Entropy {}
call!(Entropy, PUT, |_| "/entropy".to_owned());

/// `PUT /actions`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Boots the guest; once.
    InstanceStart,
}
call!(Action, PUT, |_| "/actions".to_owned());

/// `PATCH /vm`: lets the processors run or stand; twice the same is no error.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state")]
pub enum Vm {
    /// They stand.
    Paused,
    /// They run.
    Resumed,
}
call!(Vm, PATCH, |_| "/vm".to_owned());

/// `PUT /snapshot/create`; while paused.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotCreate {
    /// What of memory is written.
    pub snapshot_type: SnapshotType,
    /// The new file for processors and devices.
    pub snapshot_path: PathBuf,
    /// The file for memory.
    pub mem_file_path: PathBuf,
}
call!(
    SnapshotCreate,
    PUT,
    |_| "/snapshot/create".to_owned(),
    (),
    WITH_MEMORY
);

/// What of memory a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    /// All of it.
    Full,
    /// What was written since the boot or the snapshot before, the rest as holes.
    Diff,
}

/// `PUT /snapshot/load`; before any other configuration, and a failure ends the process.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotLoad {
    /// The file with processors and devices.
    pub snapshot_path: PathBuf,
    /// Where memory comes from.
    pub mem_backend: MemBackend,
    /// Whether the processors run at once.
    pub resume_vm: bool,
    /// Whether a later [`SnapshotType::Diff`] tells written pages from others, in place of what
    /// the process goes by without: which pages are in core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// Tap devices to use in place of those of the snapshot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
    /// The vsock device's socket, in place of that of the snapshot. Since 1.16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// Whether the guest's clock goes on at the present time, and not at that of the snapshot;
    /// x86-64. Since 1.16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_realtime: Option<bool>,
}
call!(
    SnapshotLoad,
    PUT,
    |_| "/snapshot/load".to_owned(),
    (),
    WITH_MEMORY
);

/// Where a restored guest's memory comes from.
#[derive(Debug, Clone, Serialize)]
pub struct MemBackend {
    /// What `backend_path` is.
    pub backend_type: MemBackendType,
    /// The file or the socket.
    pub backend_path: PathBuf,
}

/// Kinds of sources of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MemBackendType {
    /// A file, mapped privately: it must not change while the guest lives.
    File,
    /// The socket of a process that serves page faults.
    Uffd,
}

/// A tap device in place of that of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkOverride {
    /// The interface.
    pub iface_id: String,
    /// The tap device.
    pub host_dev_name: String,
}

/// A socket in place of that of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockOverride {
    /// Where Firecracker makes it.
    pub uds_path: PathBuf,
}

#[cfg(test)]
mod tests;
