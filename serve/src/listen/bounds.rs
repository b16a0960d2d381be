//! What clients may cost.

use std::time::Duration;

/// Limits of what clients may cost.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Bounds {
    /// Connections at a time; more wait to be accepted.
    pub connections: usize,
    /// Time for the head of a request, and between two of them; also for TLS to begin.
    pub head_timeout: Duration,
    /// Bytes of the head of a request.
    pub head_bytes: usize,
    /// Time that a client may take none of what is sent to it.
    pub write_timeout: Duration,
    /// Time that open requests have to end when the daemon does.
    pub drain_timeout: Duration,
}

impl Default for Bounds {
    /// 4,096 connections, 30 s and 64 KiB for a head, a minute without reading, 5 s to end.
    fn default() -> Self {
        Self {
            connections: 4096,
            head_timeout: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}
