//! PID 1 of an IronClaw guest.
//!
//! It prepares the system, then serves the host's requests over the virtio-serial port and over
//! vsock, whichever exists, and reaps orphans. It never exits: a fatal error ends the guest.
//!
//! ```text
//!  main ─ boot, root_disk, scratch, loopback, console   before and after
//!   └ agent                            the event loop
//!      ├ port_search, serial, uevents  where the lines come from
//!      ├ children                      who ended, and how
//!      ├ commands                      what runs, whoever listens to it
//!      │  └ command ─ account, program, terminal, stdin ─ reader; output, rundown
//!      ├ link ─ transport              one line
//!      │  └ session                    one host's open requests
//!      │     └ transfer ─ upload, download, files ─ listing, removal, archive, changes ─ overlay; tunnel
//!      └ system ─ random, identity, control_group, oom_score, credentials
//! ```
//!
//! For tests, `ironclaw-guest-agent --listen PATH` serves on a Unix socket as an ordinary process
//! and leaves the system alone. Its commands are given up sooner than a guest's when their session
//! is lost.

mod account;
mod agent;
mod archive;
mod boot;
mod changes;
mod children;
mod command;
mod commands;
mod console;
mod control_group;
mod credentials;
mod download;
mod extract;
mod failure;
mod fate;
mod file_info;
mod files;
mod identity;
mod inflow;
mod link;
mod listing;
mod loopback;
mod oom_score;
mod os_str;
mod outflow;
mod output;
mod overlay;
mod port_search;
mod program;
mod random;
mod reader;
mod removal;
mod root_disk;
mod rundown;
mod scratch;
mod serial;
mod session;
mod stdin;
mod system;
mod terminal;
mod transfer;
mod transport;
mod tunnel;
mod uevents;
mod upload;
mod watch;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ironclaw_protocol::VSOCK_PORT;
use rustix::process::{getpid, set_child_subreaper};
use vsock::{VMADDR_CID_ANY, VsockListener};

use crate::agent::Agent;
use crate::commands::Commands;
use crate::console::{die, end_guest, say};
use crate::program::Surroundings;
use crate::system::{Bystander, Guest};

const USAGE: &str = "usage: ironclaw-guest-agent --listen PATH | --version\n\
    Without arguments it is PID 1 of a guest, and nothing else.";

/// Interval of checks of an ordinary process for commands without a listener, of which there are
/// [`UNATTENDED_TICKS`](ironclaw_protocol::limits::UNATTENDED_TICKS).
const TEST_TICK_INTERVAL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    if getpid().is_init() {
        be_init();
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let arguments: Vec<&OsString> = arguments.iter().collect();
    match arguments.as_slice() {
        [option, path] if *option == "--listen" => match listen(Path::new(path)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(with_sources(error.as_ref()));
                ExitCode::FAILURE
            }
        },
        [option, program, name, arguments @ ..] if *option == terminal::TAKE_OVER => {
            terminal::take_over(program, name, arguments)
        }
        [option] if *option == "--version" => {
            let version = env!("CARGO_PKG_VERSION");
            let said = writeln!(std::io::stdout(), "ironclaw-guest-agent {version}");
            if said.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        _ => {
            say(USAGE);
            ExitCode::from(2)
        }
    }
}

fn be_init() -> ! {
    std::panic::set_hook(Box::new(|panic| die(panic)));
    let overlay = boot::prepare().unwrap_or_else(|error| die(with_sources(&error)));
    let served = Agent::new(
        boot::surroundings(overlay),
        Box::new(Guest::set_up()),
        Commands::default(),
        vsock(),
        true,
    )
    .and_then(Agent::run);
    match served {
        Ok(()) => end_guest(),
        Err(error) => die(with_sources(&error)),
    }
}

/// Opens the vsock listener; `None` in a kernel without vsock, which needs the serial port.
fn vsock() -> Option<std::os::fd::OwnedFd> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, VSOCK_PORT).ok()?;
    listener.set_nonblocking(true).ok()?;
    Some(listener.into())
}

fn listen(path: &Path) -> Result<(), Box<dyn Error>> {
    let listener = UnixListener::bind(path)
        .map_err(|error| format!("listen on {}: {error}", path.display()))?;
    listener.set_nonblocking(true)?;
    // Tells the process that started the agent when to connect.
    writeln!(std::io::stdout(), "listening on {}", path.display())?;
    // Inherits orphans like PID 1.
    set_child_subreaper(Some(getpid()))?;
    let surroundings = Surroundings {
        env: std::env::vars_os().collect(),
        cwd: std::env::current_dir()?,
        overlay: None,
    };
    Agent::new(
        surroundings,
        Box::new(Bystander),
        Commands::with_tick(TEST_TICK_INTERVAL),
        Some(listener.into()),
        false,
    )?
    .run()?;
    Ok(())
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
