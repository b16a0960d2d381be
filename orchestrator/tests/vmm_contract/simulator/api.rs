//! Parses requests as strictly as Firecracker does.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// A valid request.
#[derive(Debug)]
pub(super) enum Request {
    Instance,
    Version,
    MachineConfig(MachineConfig),
    BootSource(BootSource),
    Vsock(Vsock),
    Drive,
    Interface(Interface),
    CpuConfig(Value),
    /// A device that is not simulated further.
    Device,
    Start,
    State(State),
    Create(Create),
    Load(Load),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MachineConfig {
    pub(super) vcpu_count: u8,
    pub(super) mem_size_mib: u64,
    #[serde(default)]
    pub(super) track_dirty_pages: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is not simulated is parsed all the same")]
pub(super) struct BootSource {
    pub(super) kernel_image_path: PathBuf,
    initrd_path: Option<PathBuf>,
    boot_args: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vsock {
    pub(super) guest_cid: u32,
    pub(super) uds_path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) iface_id: String,
    pub(super) host_dev_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "action_type", deny_unknown_fields)]
enum Action {
    InstanceStart,
    FlushMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "state", deny_unknown_fields)]
pub(super) enum State {
    Paused,
    Resumed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    #[serde(default)]
    pub(super) snapshot_type: Type,
    pub(super) snapshot_path: PathBuf,
    pub(super) mem_file_path: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Type {
    #[default]
    Full,
    Diff,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    pub(super) snapshot_path: PathBuf,
    pub(super) mem_backend: Backend,
    #[serde(default)]
    pub(super) resume_vm: bool,
    #[serde(default)]
    pub(super) network_overrides: Vec<Interface>,
    pub(super) vsock_override: Option<Override>,
    pub(super) clock_realtime: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) backend_type: BackendType,
    pub(super) backend_path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum BackendType {
    File,
    Uffd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Override {
    pub(super) uds_path: PathBuf,
}

/// Parses a request, or returns the error of Firecracker `version`.
pub(super) fn parse(
    method: &str,
    path: &str,
    body: &[u8],
    version: &semver::Version,
) -> Result<Request, String> {
    let invalid = || format!("Invalid request method and/or path: {method} {path}.");
    let resource = path.trim_start_matches('/').split('/').next();
    Ok(match (method, path, resource) {
        ("GET", "/", _) => Request::Instance,
        ("GET", "/version", _) => Request::Version,
        ("PUT", "/machine-config", _) => Request::MachineConfig(json(body)?),
        ("PUT", "/boot-source", _) => Request::BootSource(json(body)?),
        ("PUT", "/vsock", _) => Request::Vsock(json(body)?),
        ("PUT", _, Some("drives")) => Request::Drive,
        ("PUT", _, Some("network-interfaces")) => Request::Interface(json(body)?),
        ("PUT", "/cpu-config", _) => Request::CpuConfig(json(body)?),
        ("PUT", "/entropy", _) => {
            let _: NoFields = json(body)?;
            Request::Device
        }
        ("PUT", "/actions", _) => match json(body)? {
            Action::InstanceStart => Request::Start,
            Action::FlushMetrics => Request::Device,
        },
        ("PATCH", "/vm", _) => Request::State(json(body)?),
        ("PUT", "/snapshot/create", _) => Request::Create(json(body)?),
        ("PUT", "/snapshot/load", _) => {
            gate(body, version)?;
            Request::Load(json(body)?)
        }
        _ => return Err(invalid()),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| {
        format!("An error occurred when deserializing the json body of a request: {error}.")
    })
}

/// Refuses fields that came with 1.16 in older versions.
fn gate(body: &[u8], version: &semver::Version) -> Result<(), String> {
    if *version >= semver::Version::new(1, 16, 0) {
        return Ok(());
    }
    let body: Value = json(body)?;
    for field in ["vsock_override", "clock_realtime"] {
        if body.get(field).is_some() {
            return Err(format!(
                "An error occurred when deserializing the json body of a request: unknown field \
                 `{field}`."
            ));
        }
    }
    Ok(())
}
