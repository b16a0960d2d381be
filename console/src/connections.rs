//! Accepts connections of this host, as many at a time as there may be.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::progress;

/// Serves each connection to its end, until it is dropped. While `most` are open, more wait to be accepted.
pub async fn accept<F>(
    listener: TcpListener,
    most: usize,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = connections.join_next() => {}
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let served = serve(stream, peer);
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                progress::note(&format!("warning: accept a connection: {error}"));
                // Without descriptors, for one: the next one that ends makes room.
                if connections.join_next().await.is_none() {
                    return;
                }
            }
        }
    }
}
