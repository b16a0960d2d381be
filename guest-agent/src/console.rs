//! The guest's console: the one place where trouble can be reported, and how PID 1 ends.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use rustix::fs::sync;
use rustix::system::{RebootCommand, reboot};

/// Writes one line. The kernel opened the console for PID 1; if there is none, nobody reads.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "ironclaw-guest-agent: {line}");
}

/// Says why, and ends the guest: PID 1 must not exit, that would be a kernel panic.
pub(crate) fn die(reason: impl Display) -> ! {
    say(reason);
    end_guest()
}

/// Ends the guest by a restart: a microVM has no power button, and its VMM takes the reset for
/// the end (Firecracker always, QEMU with `-no-reboot`).
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
