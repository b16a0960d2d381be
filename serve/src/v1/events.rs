//! Streams of events: a JSON object a line.

use bytes::Bytes;
use serde::Serialize;

/// The content of such a stream.
pub(super) const EVENTS: &str = "application/x-ndjson";

/// Writes an event as a line.
pub(super) fn line(event: &impl Serialize) -> Bytes {
    // Texts and numbers: they have a JSON.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
