//! Ports of this host that lead to ports of the guest.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use ironclaw_client::{Client, PortWay};
use ironclaw_console::connections::accept;
use ironclaw_console::value::Port;
use ironclaw_console::{causes, progress};
use ironclaw_orchestrator::vm::{FailureKind, GuestError, VmClient};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Limit of the connections to one port at a time, so that commands and other ports have room in the
/// guest; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// Ports on which connections are accepted, or wait until they are.
#[derive(Debug)]
pub(crate) struct Listeners(Vec<(TcpListener, u16)>);

impl Listeners {
    /// Listens on all ports.
    pub(crate) async fn open(ports: &[Port]) -> Result<Self> {
        let mut listeners = Vec::new();
        for port in ports {
            let listener = TcpListener::bind(port.host).await.with_context(|| {
                format!(
                    "listen on {} for the guest's port {}: choose another port or address with -p",
                    port.host, port.guest
                )
            })?;
            if port.host.port() == 0 {
                let at = listener.local_addr().context("look at a new port")?;
                progress::note(&format!("{at} leads to the guest's port {}", port.guest));
            }
            listeners.push((listener, port.guest));
        }
        Ok(Self(listeners))
    }

    /// Forwards connections to the VM, until the returned set is dropped.
    pub(crate) fn forward(self, vm: &VmClient) -> JoinSet<()> {
        self.each(|port| {
            let vm = vm.clone();
            move |stream, peer| serve(stream, peer, port, vm.clone())
        })
    }

    /// Forwards connections to a sandbox of a daemon, until the returned set is dropped.
    pub(crate) fn forward_by(self, daemon: &Client, sandbox: &str) -> JoinSet<()> {
        self.each(|port| {
            let way = PortWay::new(daemon, sandbox, port);
            move |stream, peer| {
                let way = way.clone();
                // A sandbox that is gone shows in its command.
                async move { drop(way.serve(stream, peer).await) }
            }
        })
    }

    fn each<S, F>(self, serve: impl Fn(u16) -> S) -> JoinSet<()>
    where
        S: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for (listener, port) in self.0 {
            tasks.spawn(accept(listener, MAX_CONNECTIONS, serve(port)));
        }
        tasks
    }
}

/// Forwards one connection to its end. One that the guest refuses is closed, as a server would.
async fn serve(mut stream: TcpStream, peer: SocketAddr, port: u16, vm: VmClient) {
    let _ = stream.set_nodelay(true);
    match vm.connect(port).await {
        Ok(mut guest) => {
            // Either side may leave at any time.
            let _ = copy_bidirectional(&mut stream, &mut guest).await;
        }
        Err(GuestError::Failed {
            kind: FailureKind::Refused,
            ..
        }) => tracing::debug!(%peer, port, "no program of the guest listens on the port"),
        Err(error) => progress::note(&format!(
            "warning: {peer} can't be connected to the guest's port {port}: {}",
            causes(&error)
        )),
    }
}
