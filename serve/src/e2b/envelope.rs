//! Envelopes of the Connect protocol: a byte of flags, the length in four bytes, the message
//! (<https://connectrpc.com/docs/protocol#streaming-request>).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::Serialize;

use super::failure::RpcFailure;

/// Bytes before a message.
const HEAD: usize = 5;

/// Marks the last envelope of a stream, which has its end instead of a message.
const END: u8 = 0b10;

/// Marks a compressed message.
const COMPRESSED: u8 = 0b1;

/// Wraps a message.
pub(super) fn message(message: &impl Serialize) -> Bytes {
    wrap(0, message)
}

/// Wraps the end of a stream.
pub(super) fn end(failure: Option<&RpcFailure>) -> Bytes {
    #[derive(Serialize)]
    struct End<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a RpcFailure>,
    }
    wrap(END, &End { error: failure })
}

fn wrap(flags: u8, message: &impl Serialize) -> Bytes {
    // Structs of texts and numbers: they have a JSON.
    let json = serde_json::to_vec(message).unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(HEAD + json.len());
    bytes.put_u8(flags);
    bytes.put_u32(u32::try_from(json.len()).unwrap_or(u32::MAX));
    bytes.put_slice(&json);
    bytes.freeze()
}

/// Takes messages out of a stream that comes in pieces.
#[derive(Debug)]
pub(super) struct Unwrapper {
    bytes: BytesMut,
    limit: usize,
}

impl Unwrapper {
    /// Takes messages of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            limit,
        }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.put_slice(piece);
    }

    /// Returns the next message, if all of it has come.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, RpcFailure> {
        let Some((&flags, rest)) = self.bytes.split_first() else {
            return Ok(None);
        };
        let Some(length) = rest.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if flags & COMPRESSED != 0 {
            return Err(RpcFailure::invalid(
                "a message is compressed, which was not announced",
            ));
        }
        if length > self.limit {
            let text = format!("a message of {length} bytes is too long");
            return Err(RpcFailure::invalid(text));
        }
        if self.bytes.len() < HEAD + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// Checks that nothing is left when the stream ends.
    pub(super) fn finish(&self) -> Result<(), RpcFailure> {
        match self.bytes.is_empty() {
            true => Ok(()),
            false => Err(RpcFailure::invalid(
                "the request ends in the middle of a message",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let (one, other) = (json!({"a": 1}), json!({"b": "x".repeat(300)}));
        let stream = [message(&one), message(&other)].concat();
        for size in 1..=stream.len() {
            let mut unwrapper = Unwrapper::new(1024);
            let mut got = Vec::new();
            for piece in stream.chunks(size) {
                unwrapper.push(piece);
                while let Some(message) = unwrapper.next().unwrap() {
                    got.push(serde_json::from_slice::<serde_json::Value>(&message).unwrap());
                }
            }
            assert_eq!(got, [one.clone(), other.clone()]);
            unwrapper.finish().unwrap();
        }
    }

    #[test]
    fn a_long_a_compressed_and_a_cut_message_are_refused() {
        let mut long = Unwrapper::new(10);
        long.push(&[0, 0, 0, 0, 11]);
        assert!(long.next().is_err());
        let mut compressed = Unwrapper::new(10);
        compressed.push(&[1, 0, 0, 0, 1, 0]);
        assert!(compressed.next().is_err());
        let mut cut = Unwrapper::new(10);
        cut.push(&[0, 0, 0, 0, 2, b'{']);
        assert_eq!(cut.next().unwrap(), None);
        assert!(cut.finish().is_err());
    }

    #[test]
    fn the_end_tells_a_failure_and_nothing_else() {
        assert_eq!(&end(None)[..], b"\x02\0\0\0\x02{}");
        let failed = end(Some(&RpcFailure::not_found("gone")));
        let json = br#"{"error":{"code":"not_found","message":"gone"}}"#;
        assert_eq!(&failed[HEAD..], json);
    }
}
