//! The states of the virtual machine, and its snapshots on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::api::{
    BackendType, Create, Interface, Load, MachineConfig, Request, State, Type, Vsock,
};
use super::guest::{Memory, Running};
use super::http::Answer;

const NOT_BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const NOT_AFTER: &str = "The requested operation is not supported after starting the microVM.";
/// Offset of the guest's state in a memory file, in the middle of the first page.
const STATE_OFFSET: u64 = 1024;
const MAGIC: &[u8; 8] = b"simguest";

/// A process's virtual machine.
pub(super) enum Instance {
    NotStarted(Configuration),
    Started(Box<Machine>),
}

#[derive(Default)]
pub(super) struct Configuration {
    machine: Option<MachineConfig>,
    kernel: bool,
    vsock: Option<Vsock>,
    devices: Devices,
}

/// Devices by id, with their resources on the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Devices {
    interfaces: BTreeMap<String, String>,
}

pub(super) struct Machine {
    config: MachineConfig,
    vsock: Option<Vsock>,
    devices: Devices,
    pub(super) guest: Running,
    pub(super) running: bool,
    pub(super) listener: Option<UnixListener>,
    /// The source of memory.
    backing: Option<File>,
}

/// The effect of a request on the process.
pub(super) enum After {
    Goes,
    /// Breaks the connections to the guest.
    Disconnects,
    Exits(u8),
    Dies,
}

#[derive(Serialize, Deserialize)]
struct VmState {
    version: String,
    vcpu_count: u8,
    mem_size_mib: u64,
    vsock: Option<(u32, PathBuf)>,
    devices: Devices,
}

impl Instance {
    pub(super) fn perform(&mut self, request: Request, version: &str) -> (Answer, After) {
        let answer = match request {
            Request::Instance => {
                let state = match self {
                    Self::NotStarted(_) => "Not started",
                    Self::Started(machine) if machine.running => "Running",
                    Self::Started(_) => "Paused",
                };
                Ok(Answer::Found(serde_json::json!({
                    "app_name": "Firecracker", "id": "anonymous-instance",
                    "state": state, "vmm_version": version,
                })))
            }
            Request::Version => Ok(Answer::Found(
                serde_json::json!({ "firecracker_version": version }),
            )),
            Request::Load(load) => return self.load(&load, version),
            Request::State(state) => return self.set(state),
            Request::Create(create) => match self {
                Self::NotStarted(_) => Err(NOT_BEFORE.to_owned()),
                Self::Started(machine) => match machine.create(&create, version) {
                    Ok(()) => return (Answer::Done, After::Disconnects),
                    Err(message) => Err(format!("Create snapshot error: {message}")),
                },
            },
            Request::Start => match self {
                Self::Started(_) => Err(NOT_AFTER.to_owned()),
                Self::NotStarted(configuration) => configuration.start().map(|machine| {
                    *self = Self::Started(Box::new(machine));
                    Answer::Done
                }),
            },
            before_boot => match self {
                Self::Started(_) => Err(NOT_AFTER.to_owned()),
                Self::NotStarted(configuration) => configuration.take(before_boot),
            },
        };
        (answer.unwrap_or_else(Answer::Fault), After::Goes)
    }

    fn set(&mut self, state: State) -> (Answer, After) {
        let Self::Started(machine) = self else {
            return (Answer::Fault(NOT_BEFORE.to_owned()), After::Goes);
        };
        machine.running = state == State::Resumed;
        let overwritten = machine.running && machine.lost_its_memory();
        let after = if overwritten {
            After::Dies
        } else {
            After::Goes
        };
        (Answer::Done, after)
    }

    /// Loads a snapshot. A failure ends the process, whatever the reason.
    fn load(&mut self, load: &Load, version: &str) -> (Answer, After) {
        let Self::NotStarted(configuration) = self else {
            return (Answer::Fault(NOT_AFTER.to_owned()), After::Goes);
        };
        if !configuration.is_untouched() {
            let message = "Load snapshot error: Loading a microVM snapshot not allowed after \
                           configuring boot-specific resources.";
            return (Answer::Fault(message.to_owned()), After::Goes);
        }
        match Machine::load(load, version) {
            Ok(machine) => {
                *self = Self::Started(Box::new(machine));
                (Answer::Done, After::Goes)
            }
            Err(message) => {
                let message =
                    format!("Load snapshot error: Failed to restore from snapshot: {message}");
                (Answer::Fault(message), After::Exits(1))
            }
        }
    }
}

impl Configuration {
    fn is_untouched(&self) -> bool {
        self.machine.is_none()
            && !self.kernel
            && self.vsock.is_none()
            && self.devices.interfaces.is_empty()
    }

    fn take(&mut self, request: Request) -> Result<Answer, String> {
        match request {
            Request::MachineConfig(config) => {
                if !(1..=32).contains(&config.vcpu_count) || config.mem_size_mib == 0 {
                    return Err("The vCPU number or the memory size is invalid".to_owned());
                }
                self.machine = Some(config);
            }
            Request::BootSource(source) => {
                if !source.kernel_image_path.is_file() {
                    let path = source.kernel_image_path.display();
                    return Err(format!("The kernel file cannot be opened: {path}"));
                }
                self.kernel = true;
            }
            Request::Vsock(vsock) => self.vsock = Some(vsock),
            Request::Drive => return Err("drives are not simulated".to_owned()),
            Request::Interface(interface) => {
                let Interface {
                    iface_id,
                    host_dev_name,
                } = interface;
                self.devices.interfaces.insert(iface_id, host_dev_name);
            }
            Request::CpuConfig(template) if !template.is_object() => {
                return Err("The CPU template is no object".to_owned());
            }
            _ => {}
        }
        Ok(Answer::Done)
    }

    fn start(&mut self) -> Result<Machine, String> {
        if !self.kernel {
            return Err("Cannot start microvm without kernel configuration.".to_owned());
        }
        let config = self.machine.take().unwrap_or(MachineConfig {
            vcpu_count: 1,
            mem_size_mib: 128,
            track_dirty_pages: false,
        });
        let devices = std::mem::take(&mut self.devices);
        let guest = Running::booted();
        Machine::new(config, self.vsock.take(), devices, guest, true, None)
    }
}

impl Devices {
    /// Checks tap devices: each has one user at a time, so a clone needs another one than its
    /// snapshot had.
    fn restore(&mut self, overrides: &[Interface]) -> Result<(), String> {
        for Interface {
            iface_id,
            host_dev_name,
        } in overrides
        {
            let known = self.interfaces.get_mut(iface_id);
            *known.ok_or("Unknown Network Device")? = String::clone(host_dev_name);
        }
        if overrides.len() < self.interfaces.len() {
            return Err("Open tap device failed: Resource busy".to_owned());
        }
        Ok(())
    }
}

impl Machine {
    fn new(
        config: MachineConfig,
        vsock: Option<Vsock>,
        devices: Devices,
        guest: Running,
        running: bool,
        backing: Option<File>,
    ) -> Result<Self, String> {
        let listen = |vsock: &Vsock| {
            UnixListener::bind(&vsock.uds_path)
                .map_err(|error| format!("Cannot create the vsock's socket: {error}"))
        };
        let listener = vsock.as_ref().map(listen).transpose()?;
        Ok(Self {
            config,
            vsock,
            devices,
            guest,
            running,
            listener,
            backing,
        })
    }

    fn create(&mut self, create: &Create, version: &str) -> Result<(), String> {
        if self.running {
            return Err("save/restore unavailable while running".to_owned());
        }
        if create.snapshot_type == Type::Diff && !self.config.track_dirty_pages {
            // Firecracker goes by resident pages then; nothing is resident here.
            return Err("dirty pages are not tracked".to_owned());
        }
        let state = VmState {
            version: version.to_owned(),
            vcpu_count: self.config.vcpu_count,
            mem_size_mib: self.config.mem_size_mib,
            vsock: self
                .vsock
                .as_ref()
                .map(|v| (v.guest_cid, v.uds_path.clone())),
            devices: self.devices.clone(),
        };
        let json = serde_json::to_vec(&state).unwrap();
        let mut bytes = Sha256::digest(&json).to_vec();
        bytes.extend(json);
        fs::write(&create.snapshot_path, bytes).map_err(|error| error.to_string())?;
        let memory = File::create(&create.mem_file_path).map_err(|error| error.to_string())?;
        let json = serde_json::to_vec(&self.guest.memory()).unwrap();
        let write = || {
            memory.set_len(self.config.mem_size_mib << 20)?;
            memory.write_all_at(MAGIC, STATE_OFFSET)?;
            memory.write_all_at(&(json.len() as u64).to_le_bytes(), STATE_OFFSET + 8)?;
            memory.write_all_at(&json, STATE_OFFSET + 16)
        };
        write().map_err(|error: std::io::Error| error.to_string())
    }

    fn load(load: &Load, version: &str) -> Result<Self, String> {
        let state = fs::read(&load.snapshot_path)
            .map_err(|error| format!("Failed to open snapshot file: {error}"))?;
        let (digest, json) = state
            .split_at_checked(32)
            .ok_or("Failed to load snapshot state from file: too short")?;
        if digest != Sha256::digest(json).as_slice() {
            return Err("Failed to load snapshot state from file: CRC64 validation failed".into());
        }
        let state: VmState = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if state.version != version {
            return Err(format!(
                "Failed to load snapshot state from file: snapshot of {}",
                state.version
            ));
        }
        let path = &load.mem_backend.backend_path;
        if load.mem_backend.backend_type == BackendType::Uffd {
            UnixStream::connect(path)
                .map_err(|error| format!("Failed to connect to UDS Unix stream: {error}"))?;
            return Err("page faults are not simulated".to_owned());
        }
        let backing =
            File::open(path).map_err(|error| format!("Failed to load guest memory: {error}"))?;
        let bytes = backing.metadata().map_err(|error| error.to_string())?.len();
        if bytes < state.mem_size_mib << 20 {
            return Err(format!(
                "Failed to load guest memory: {bytes} bytes of memory"
            ));
        }
        let memory = read(&backing).ok_or("Failed to load guest memory: no guest in it")?;
        let vsock = state.vsock.map(|(guest_cid, uds_path)| Vsock {
            guest_cid,
            uds_path: match &load.vsock_override {
                Some(other) => other.uds_path.clone(),
                None => uds_path,
            },
        });
        let mut devices = state.devices;
        devices.restore(&load.network_overrides)?;
        let _ = load.clock_realtime;
        let config = MachineConfig {
            vcpu_count: state.vcpu_count,
            mem_size_mib: state.mem_size_mib,
            track_dirty_pages: false,
        };
        let guest = Running::new(memory);
        Self::new(config, vsock, devices, guest, load.resume_vm, Some(backing))
    }

    /// Returns whether the file behind its memory has changed: the guest has touched next to
    /// nothing of it, so its next instruction is gone, or another one.
    pub(super) fn lost_its_memory(&self) -> bool {
        let lost = |file: &File| read(file).is_none();
        self.backing.as_ref().is_some_and(lost)
    }
}

/// Reads the guest's state from a memory file.
fn read(memory: &File) -> Option<Memory> {
    let mut head = [0; 16];
    memory.read_exact_at(&mut head, STATE_OFFSET).ok()?;
    let (magic, length) = head.split_at(8);
    let length = u64::from_le_bytes(length.try_into().ok()?);
    if magic != MAGIC || length > 1 << 20 {
        return None;
    }
    let mut json = vec![0; usize::try_from(length).ok()?];
    memory.read_exact_at(&mut json, STATE_OFFSET + 16).ok()?;
    serde_json::from_slice(&json).ok()
}

/// A connection of the host to a port of the guest: the handshake of Firecracker's docs/vsock.md.
pub(super) struct Handshake {
    line: Vec<u8>,
}

impl Handshake {
    pub(super) fn new() -> Self {
        Self { line: Vec::new() }
    }

    /// Reads the request; returns whether it is for the agent's port, once that is known.
    pub(super) fn read(&mut self, stream: &mut UnixStream) -> std::io::Result<Option<bool>> {
        let mut byte = [0];
        while self.line.len() < 32 {
            match stream.read(&mut byte)? {
                0 => return Ok(Some(false)),
                _ if byte == *b"\n" => {
                    let wanted = format!("CONNECT {}", ironclaw_protocol::VSOCK_PORT);
                    return Ok(Some(self.line == wanted.as_bytes()));
                }
                _ => self.line.push(byte[0]),
            }
        }
        Ok(Some(false))
    }

    pub(super) fn accept(stream: &mut UnixStream) -> std::io::Result<()> {
        stream.write_all(b"OK 1073741824\n")
    }
}
