//! QEMU's command line.
//!
//! A snapshot can be restored only into the very machine it was taken from, so one function
//! writes the line for both, and the roles differ in nothing but where RAM comes from and whether
//! a state is waited for.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::accelerator::Accelerator;
use crate::sys;
use crate::vm::vmm::{Machine, VmSpec};

/// Bound on the memory that QEMU spends on translated guest code, in MiB. A guest chooses what
/// code it runs, so without a bound it chooses how much of the host's memory that takes.
const TRANSLATION_CACHE_MIB: u32 = 64;

/// Where the guest's RAM comes from.
pub(super) enum Memory {
    /// Nowhere: it is made for this process.
    Private,
    /// A file that the guest writes through to.
    Shared(OwnedFd),
    /// A file that stays as it is: what the guest writes, it writes to pages of its own.
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

/// What QEMU calls the file of its guest's RAM: it gets the open file whatever the name.
const RAM_FILE: &str = "/memory";

/// How the VM starts.
pub(super) enum Start<'a> {
    /// It boots this.
    Boot(&'a VmSpec),
    /// It waits for a state, paused. The kernel and the initramfs are in the clone's RAM already:
    /// without them QEMU need not read 60 MB from disk for each clone.
    Incoming,
}

impl Start<'_> {
    /// Files that QEMU opens by their names.
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

/// Ends of the sockets that QEMU inherits.
pub(super) struct Sockets<'a> {
    pub(super) monitor: &'a OwnedFd,
    pub(super) agent: &'a OwnedFd,
}

pub(super) fn command(
    binary: &Path,
    accelerator: Accelerator,
    tsc_khz: Option<u32>,
    machine: Machine,
    memory: &Memory,
    start: &Start<'_>,
    sockets: &Sockets<'_>,
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
    // A guest that breaks out finds itself unable to start processes or to gain privileges.
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
            // The translator's cache is touched here and there: huge pages make a warm clone some
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
        // Without these a boot now and then hangs in "Unable to calibrate against PIT".
        args.push_str(&format!(" tsc=reliable tsc_early_khz={khz} no_timer_check"));
    }
    args
}
