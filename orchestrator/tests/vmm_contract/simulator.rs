//! A simulator of Firecracker, for faults that the real one can't be asked for.
//!
//! It is a process with Firecracker's command line: this test program, under the name
//! `firecracker`. It implements Firecracker's API as strictly (an unknown field is a 400, requests
//! are legal in the same states, a failed load ends the process) and runs the test guest's library
//! behind its vsock socket. `honesty` compares it with the real one. A test injects faults through
//! files beside the link by which it is started; each strikes once.

mod api;
mod fault;
mod guest;
mod http;
mod instance;
mod server;

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) use fault::{Fault, Simulator};

/// The name that makes this program the simulator.
pub(crate) const NAME: &str = "firecracker";
/// Calls where faults strike, other than API requests: the process's start, a connection to the
/// guest, and a message of the guest.
pub(crate) const START: &str = "start";
pub(crate) const CONNECT: &str = "CONNECT";
pub(crate) const GUEST: &str = "guest";
/// The version that it pretends to be by default.
pub(crate) const VERSION: &str = "1.17.0";

impl Simulator {
    /// Creates a simulator in `directory`.
    pub(crate) fn install(directory: &Path) -> Self {
        let binary = directory.join(NAME);
        match symlink(std::env::current_exe().unwrap(), &binary) {
            // Created by a test that used the directory before.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.unwrap(),
        }
        Self::at(binary)
    }
}

/// Runs the process, started as `program`.
pub(crate) fn run(program: &Path) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let simulator = Simulator::at(program.to_owned());
    let version = simulator.version();
    if arguments.iter().any(|argument| argument == "--version") {
        println!("Firecracker v{version}\n");
        return ExitCode::SUCCESS;
    }
    let Some(socket) = api_socket(&arguments) else {
        println!("Arguments parsing error: {arguments:?}");
        return ExitCode::from(153);
    };
    if let Some(Fault::Refuse(message)) = simulator.strike(START) {
        println!("{message}");
        return ExitCode::FAILURE;
    }
    server::serve(&simulator, &version, &socket)
}

/// Returns the value of `--api-sock`, if Firecracker accepts the arguments.
fn api_socket(arguments: &[String]) -> Option<PathBuf> {
    let mut socket = None;
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--api-sock" => socket = Some(PathBuf::from(value)),
            [name, _] if ["--id", "--level", "--log-path"].contains(&name.as_str()) => {}
            _ => return None,
        }
    }
    socket
}
