//! Builds QEMU's command line.
//!
//! A snapshot can be restored only into the very same machine, so one function builds the line for
//! both roles: they differ only in the source of RAM, and in whether an incoming state is awaited.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::accelerator::Accelerator;
use crate::sys;
use crate::vm::vmm::{Machine, VmSpec};

/// Limit of the memory for translated guest code, in MiB. Without a limit, a guest could make QEMU
/// use any amount of the host's memory by the code that it runs.
const TRANSLATION_CACHE_MIB: u32 = 64;

/// The source of the guest's RAM.
pub(super) enum Memory {
    /// Private memory of this process.
    Private,
    /// A file that the guest writes through to.
    Shared(OwnedFd),
    /// A file mapped copy-on-write: it stays unchanged.
    CopyOnWrite(OwnedFd),
}

impl Memory {
    pub(super) fn into_file(self) -> Option<OwnedFd> {
        match self {
            Self::Private => None,
            Self::Shared(file) | Self::CopyOnWrite(file) => Some(file),
        }
    }
}

/// The name under which QEMU opens the file of its guest's RAM; we answer with the open file.
const RAM_FILE: &str = "/memory";

/// The way in which the VM starts.
pub(super) enum Start<'a> {
    /// Boots this.
    Boot(&'a VmSpec),
    /// Waits for a state, paused. The clone's RAM contains the kernel and the initramfs already:
    /// without these files QEMU need not read 60 MB from disk for each clone.
    Incoming,
}

impl Start<'_> {
    /// Returns the files that QEMU opens by path.
    pub(super) fn reads(&self) -> Vec<&Path> {
        match self {
            Self::Boot(spec) => [Some(spec.kernel.as_path()), spec.initramfs.as_deref()]
                .into_iter()
                .flatten()
                .collect(),
            Self::Incoming => Vec::new(),
        }
    }
}

/// The socket ends that QEMU inherits.
pub(super) struct Sockets<'a> {
    pub(super) monitor: &'a OwnedFd,
    pub(super) agent: &'a OwnedFd,
}

#[expect(clippy::too_many_arguments, reason = "a command line has as many")]
pub(super) fn command(
    binary: &Path,
    accelerator: Accelerator,
    tsc_khz: Option<u32>,
    machine: Machine,
    memory: &Memory,
    start: &Start<'_>,
    sockets: &Sockets<'_>,
    drives: &[String],
) -> Command {
    let mut command = Command::new(binary);
    command.env_clear();
    command.args([
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-name", "ironclaw"]);
    // A guest that breaks out can neither start processes nor gain privileges.
    command.args([
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    match accelerator {
        Accelerator::Tcg => {
            command
                .arg("-accel")
                .arg(format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"));
            command.args(["-cpu", "max"]);
            // The translator's cache is touched sparsely: huge pages would make a warm clone some
            // MiB larger (Private_Dirty in /proc/PID/smaps_rollup).
            sys::refuse_huge_pages(&mut command);
        }
        Accelerator::Kvm => {
            command.args(["-accel", "kvm", "-cpu", "host"]);
        }
    }
    command.args([
        "-M",
        "microvm,memory-backend=ram,pcie=off,usb=off,x-option-roms=off",
    ]);
    command.arg("-m").arg(format!("{}M", machine.memory_mib));
    command.arg("-smp").arg(machine.vcpus.to_string());
    command
        .arg("-object")
        .arg(memory_backend(machine, memory).to_string());

    match start {
        Start::Boot(spec) => {
            command.arg("-kernel").arg(&spec.kernel);
            if let Some(initramfs) = &spec.initramfs {
                command.arg("-initrd").arg(initramfs);
            }
            command
                .arg("-append")
                .arg(boot_args(&spec.cmdline, accelerator, tsc_khz));
        }
        Start::Incoming => {
            command.args(["-incoming", "defer", "-S"]);
        }
    }

    command.args([
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    command.args([
        "-device",
        "virtio-rng-device",
        "-device",
        "virtio-serial-device",
    ]);
    command.args(drives);
    command
        .arg("-chardev")
        .arg(format!("socket,id=agent,fd={}", sockets.agent.as_raw_fd()));
    command.arg("-device").arg(format!(
        "virtserialport,chardev=agent,name={}",
        ironclaw_protocol::SERIAL_PORT_NAME
    ));
    command.arg("-chardev").arg(format!(
        "socket,id=monitor,fd={}",
        sockets.monitor.as_raw_fd()
    ));
    command.args(["-mon", "chardev=monitor,mode=control"]);
    command
}

fn memory_backend(machine: Machine, memory: &Memory) -> serde_json::Value {
    let size = machine.memory_bytes();
    let file = |share: bool| {
        json!({
            "qom-type": "memory-backend-file", "id": "ram", "size": size,
            "mem-path": RAM_FILE, "share": share,
        })
    };
    match memory {
        Memory::Private => json!({ "qom-type": "memory-backend-ram", "id": "ram", "size": size }),
        Memory::Shared(_) => file(true),
        Memory::CopyOnWrite(_) => file(false),
    }
}

fn boot_args(cmdline: &str, accelerator: Accelerator, tsc_khz: Option<u32>) -> String {
    let mut args = cmdline.to_owned();
    if let (Accelerator::Tcg, Some(khz)) = (accelerator, tsc_khz) {
        // Without these a boot sometimes hangs in "Unable to calibrate against PIT".
        args.push_str(&format!(" tsc=reliable tsc_early_khz={khz} no_timer_check"));
    }
    args
}
