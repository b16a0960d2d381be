//! The command line of `ironclaw serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::help;

/// Where the daemon listens by default: its port is that of E2B's API in its SDKs' debug mode.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);

/// Seconds that sandboxes have to be paused in: less than the 90 that systemd waits by default.
const DRAIN_TIMEOUT: u16 = 75;

/// How the daemon serves.
#[derive(Debug, Args)]
#[command(after_help = help::SERVE_EXAMPLES)]
pub struct Serve {
    /// Listen on this address; port 0 takes a free one, which is printed. By default 127.0.0.1:3000, unless the
    /// service manager passes an address. Addresses that others reach need --tls-cert, or --plain-http.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Encrypt connections to addresses: the certificate, with those that signed it behind it, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Listen on addresses that others reach without encryption, as something else encrypts: keys and what guests
    /// print pass as they are.
    #[arg(long, conflicts_with = "tls_cert")]
    pub(crate) plain_http: bool,
    /// Connections at a time; more wait.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_connections: u16,
    /// Listen on this Unix socket, which its user and group may open without a key; by default `socket`, in the
    /// directory of the database, where `ironclaw ls` and the like find it.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Let this group open the socket, too: a name or number. Whoever opens it may do everything.
    #[arg(long, value_name = "GROUP", requires = "socket")]
    pub(crate) group: Option<String>,
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
