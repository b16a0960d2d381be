//! A guest without an operating system, for tests of IronClaw with a real Firecracker where a
//! stock Linux kernel can't run or would only be slow. It boots within some milliseconds, listens on
//! [`VSOCK_PORT`](ironclaw_protocol::VSOCK_PORT) and is the guest's side of the protocol, for up
//! to eight connections.
//!
//! # Building it
//! ```text
//! cargo build --manifest-path testguest/Cargo.toml --release --target x86_64-unknown-linux-gnu
//! ```
//! makes `testguest/target/x86_64-unknown-linux-gnu/release/ironclaw-testguest`, an ELF file to
//! be given to Firecracker as `kernel_image_path`. It needs no target but the host's own. It is not
//! a member of the workspace, which has another panic strategy. What needs no hardware is
//! tested on the host by `cargo test --manifest-path testguest/Cargo.toml --lib`.
//!
//! # What it needs
//! One vCPU (more stay off), at least 16 MiB of memory, a vsock device on the MMIO bus (not
//! `--enable-pci`), KVM's clock. No drive, no initramfs; boot arguments are ignored, and so is
//! memory beyond 3 GiB. KVM without hardware virtualisation (`kvm-pvm`) will do.
//!
//! # What it can do
//! `Ping`, `SetIdentity`, `Shutdown` (Firecracker exits), `List`, `Attach`, `Signal` and `Kill` of commands,
//! `PutFile` and `GetFile` on a table in memory (directories `/` and `/tmp`, 16 files, 1 MiB in all),
//! and `Exec` of:
//!
//! | command | does |
//! |---|---|
//! | `echo ARGS` | prints its arguments and a newline |
//! | `cat` | copies standard input to standard output |
//! | `counter` | adds one to a counter in guest memory and prints it |
//! | `entropy` | prints 32 bytes of the guest's generator in hex; clones draw the same ones until `SetIdentity` |
//! | `identity` | prints host name, machine id and boot id from `SetIdentity`, a line each |
//! | `clock` | prints seconds since 1970, with nine digits after the point, counted on from `SetIdentity` |
//! | `count MS` | prints 1, 2, 3, ... for ever, a line each so many milliseconds |
//! | `dirty N` | writes to every page of N MiB |
//! | `sleep MS` | waits that many milliseconds |
//! | `fail CODE` | exits with that status |
//! | `flood N` | prints N MiB of bytes that count from 0 to 250, over and over |
//!
//! Anything else is `NotFound`. A connection has up to 16 requests open at a time. Signals,
//! `Cancel` and time limits end a command as they would end a process; the environment is ignored.
//! Problems of the guest itself are reported on the serial port, after which it resets, so that
//! Firecracker exits (with status 0, as for `Shutdown`).
//!
//! # Snapshots
//! The device tells a restored guest that its connections are gone; the guest drops them, reads
//! its context id again and goes on listening. Its commands go on, for whoever attaches to them. A host's connection from before the snapshot learns
//! nothing of that until it sends something. The guest halts while there is nothing to do.

#![no_std]
#![no_main]

extern crate alloc;

#[allow(
    unsafe_code,
    reason = "there is nothing below this guest but the machine"
)]
mod hardware;

use alloc::boxed::Box;
use core::panic::PanicInfo;
use core::time::Duration;

use hardware::clock::Clock;
use hardware::memory::Spare;
use hardware::serial::{log, stop};
use hardware::socket::Socket;
use hardware::{interrupts, memory, supervisor};
use ironclaw_testguest::boot::{self, Device};
use ironclaw_testguest::connections::Connections;
use ironclaw_testguest::guest::{Guest, Machine};

/// How long the last answers may take to leave before the power goes off.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Turns that commands get before their output leaves: a packet costs the host and the guest far
/// more than a turn, and one that ends has nothing to say after a few.
const TURNS: usize = 8;

struct Bare {
    clock: Clock,
    spare: Spare,
}

impl Machine for Bare {
    fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    fn spare_mebibytes(&self) -> u32 {
        self.spare.mebibytes()
    }

    fn dirty_mebibyte(&mut self, index: u32) {
        self.spare.dirty_mebibyte(index);
    }
}

/// The target of the entry code, which passes the address of the zero page.
#[allow(
    unsafe_code,
    reason = "brings the machine up, each step once and in order"
)]
extern "sysv64" fn start(zero_page: *const u8) -> ! {
    // SAFETY: this is the only CPU, and this function runs once, from the entry code, which got
    // `zero_page` from the boot loader.
    let (boot_info, spare) = unsafe {
        interrupts::fill_table();
        let boot_info = memory::boot_info(zero_page);
        let spare = memory::claim(boot_info.zero_page);
        (boot_info, spare)
    };
    let Some(spare) = spare else {
        stop(format_args!("no memory behind the image"))
    };
    let Some(clock) = Clock::start() else {
        stop(format_args!("the hypervisor has no KVM clock"))
    };
    let machine = Bare { clock, spare };
    let (socket, device) = find_socket(boot_info.command_line);
    // SAFETY: as above.
    unsafe { interrupts::enable(device.interrupt) };
    let seed = machine.uptime().as_nanos().to_le_bytes();
    log(format_args!(
        "up after {:?}, {} MiB to spare, vsock at {:#x}",
        machine.uptime(),
        machine.spare_mebibytes(),
        device.address
    ));
    let mut guest = Guest::new(Box::new(machine), &seed);
    match serve(socket, &mut guest) {
        Ok(()) => supervisor::reset(),
        Err(error) => stop(format_args!("the vsock device failed: {error}")),
    }
}

#[allow(unsafe_code, reason = "opening a device takes its registers over")]
fn find_socket(command_line: &[u8]) -> (Socket, Device) {
    for device in boot::devices(command_line) {
        // SAFETY: Firecracker put the device on the command line, and nobody else uses it.
        match unsafe { Socket::open(device) } {
            Ok(socket) => return (socket, device),
            Err(virtio_drivers::Error::Unsupported) => {}
            Err(error) => stop(format_args!(
                "the vsock device at {:#x}: {error}",
                device.address
            )),
        }
    }
    stop(format_args!("no vsock device on the command line"))
}

/// Answers the host until it wants the power off.
fn serve(mut socket: Socket, guest: &mut Guest) -> virtio_drivers::Result<()> {
    let mut connections = Connections::new(socket.cid()?);
    loop {
        let mut worked = false;
        // First, since packets behind it belong to new connections.
        while socket.was_reset()? {
            connections.reset(socket.cid()?);
            worked = true;
        }
        while socket.receive(|packet| connections.receive(packet))? {
            worked = true;
        }
        for _ in 0..TURNS {
            if !connections.pump(guest) {
                break;
            }
            worked = true;
        }
        worked |= socket.send(|packet| connections.next_packet(packet))?;
        if let Some(asked) = guest.power_off_at {
            let sent = connections.is_drained() && socket.is_idle()?;
            if sent || guest.machine.uptime() > asked + FLUSH_TIMEOUT {
                return Ok(());
            }
        }
        // Halts at once: to look for more meanwhile takes a processor from others on the host.
        if !worked {
            let now = guest.machine.uptime();
            let last_words = guest.power_off_at.map(|asked| asked + FLUSH_TIMEOUT);
            let wake = [guest.wakes_at(), last_words].into_iter().flatten().min();
            interrupts::wait(wake.map(|wake| wake.saturating_sub(now)));
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    stop(format_args!("{info}"))
}
