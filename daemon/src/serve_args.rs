//! The command line of `ironclaw serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::help;

/// The port that the daemon listens on by default: that of E2B's API in its SDKs' debug mode.
const PORT: u16 = 3000;

/// Seconds that sandboxes have to be paused in: less than the 90 that systemd waits by default.
const DRAIN_TIMEOUT: u16 = 75;

/// How the daemon serves.
#[derive(Debug, Args)]
#[command(after_help = help::SERVE_EXAMPLES)]
pub struct Serve {
    /// Listen on this loopback address; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))]
    pub(crate) listen: SocketAddr,
    /// Listen on this Unix socket, which its user and group may open without a key; by default `socket`, in the
    /// directory of the database, where `ironclaw ls` and the like find it.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The directory of the daemon's database; by default `daemon`, beside that of the snapshots.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Sandboxes at a time, running and paused ones together.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) limit: u16,
    /// Have warm clones of these templates ready before listening; may be given more than once.
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) warm: Vec<String>,
    /// When the daemon ends, the time that sandboxes which run may take to be paused; what is not is lost.
    #[arg(long, value_name = "SECONDS", default_value_t = DRAIN_TIMEOUT)]
    pub(crate) drain_timeout: u16,
    /// Check that the daemon could start, and start nothing.
    #[arg(long)]
    pub(crate) check: bool,
}
