//! The way from connections of this host to a port of a sandbox.

use std::net::SocketAddr;

use ironclaw_console::{causes, progress};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::client::Client;
use crate::refusal::{ClientError, Refusal};

/// Connections to one port at a time, as many as the daemon lets to a sandbox; more wait to be accepted.
pub(crate) const MAX_CONNECTIONS: usize = 64;

/// The way to a port of a sandbox.
#[derive(Debug, Clone)]
pub struct PortWay {
    client: Client,
    path: String,
    port: u16,
}

impl PortWay {
    /// Creates the way to a port of the sandbox with this id.
    #[must_use]
    pub fn new(client: &Client, sandbox: &str, port: u16) -> Self {
        let id = utf8_percent_encode(sandbox, NON_ALPHANUMERIC);
        Self {
            client: client.clone(),
            path: format!("/v1/sandboxes/{id}/ports/{port}"),
            port,
        }
    }

    /// Forwards one connection to its end. One that the guest refuses is closed, as a server would.
    ///
    /// # Errors
    /// The reason why no connection leads there any more: the sandbox is gone.
    pub async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) -> Result<(), Refusal> {
        // It is as well without.
        let _ = stream.set_nodelay(true);
        match self.client.tunnel(&self.path).await {
            Ok(mut program) => {
                // Either side may leave at any time.
                let _ = copy_bidirectional(&mut stream, &mut program).await;
                Ok(())
            }
            Err(ClientError::Refused(refusal)) if refusal.kind == "port_closed" => Ok(()),
            Err(ClientError::Refused(refusal)) if refusal.kind == "not_found" => Err(refusal),
            Err(error) => {
                progress::note(&format!(
                    "warning: {peer} can't be connected to port {} of the sandbox: {}",
                    self.port,
                    causes(&error)
                ));
                Ok(())
            }
        }
    }
}
