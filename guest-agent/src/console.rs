//! The guest's console, the only place to report problems; and the end of the guest.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use rustix::fs::sync;
use rustix::system::{RebootCommand, reboot};

/// Writes one line. The kernel opened the console for PID 1; without one, nobody reads.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "ironclaw-guest-agent: {line}");
}

/// Reports the reason and ends the guest: PID 1 must not exit, which would be a kernel panic.
pub(crate) fn die(reason: impl Display) -> ! {
    say(reason);
    end_guest()
}

/// Ends the guest by a restart: a microVM has no power button, and its VMM exits at a reset
/// (Firecracker always, QEMU with `-no-reboot`).
pub(crate) fn end_guest() -> ! {
    sync();
    for command in [
        RebootCommand::Restart,
        RebootCommand::PowerOff,
        RebootCommand::Halt,
    ] {
        if let Err(error) = reboot(command) {
            say(format_args!("reboot: {error}"));
        }
    }
    loop {
        std::thread::park_timeout(Duration::MAX);
    }
}
