//! What `Debug` shows of messages: no entropy, no values of variables, no content of files and
//! streams, and no megabyte.

use alloc::string::String;
use core::fmt;

use crate::message::{Exec, Inherited, SetIdentity, ToGuest, ToHost};
use crate::os_bytes::OsBytes;

/// Limit of the bytes shown of a name, a path or another text.
const MAX_SHOWN: usize = 256;

/// Shows the number of some bytes.
struct Count<'a>(&'a [u8]);

impl fmt::Debug for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Implements `Debug` for messages of these variants and fields as it would be derived, and for
/// `Data` with the number of its bytes.
macro_rules! debug_without_data {
    ($messages:ident {
        Data { $($data:ident),* }
        $($variant:ident { $($field:ident),* })*
    }) => {
        impl fmt::Debug for $messages {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Data { $($data,)* bytes } => {
                        let mut shown = f.debug_struct("Data");
                        $(shown.field(stringify!($data), $data);)*
                        shown.field("bytes", &Count(bytes)).finish()
                    }
                    $(Self::$variant { $($field),* } => {
                        let mut shown = f.debug_struct(stringify!($variant));
                        $(shown.field(stringify!($field), $field);)*
                        shown.finish()
                    })*
                }
            }
        }
    };
}

debug_without_data!(ToGuest {
    Data { id }
    Hello { version, session }
    Request { id, request }
    Eof { id }
    Taken { id, stream, offset }
    Signal { id, signal }
    Cancel { id }
    AwaitReader { id }
    Detach { id }
    Acknowledge { exec }
    Resize { id, size }
});

debug_without_data!(ToHost {
    Data { id, stream }
    Hello { version, session, agent }
    Credit { id, bytes }
    Done { id, outcome }
    Fault { reason }
    OutOfMemory { id }
    ReaderWaits { id }
    Attached { id, stdout, stderr, stdin, keep }
    Opened { id }
    Eof { id }
});

/// For people: replaces invalid UTF-8 by U+FFFD, and shows the beginning of a long one.
impl fmt::Debug for OsBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.as_bytes();
        let (shown, rest) = bytes.split_at(bytes.len().min(MAX_SHOWN));
        fmt::Debug::fmt(&String::from_utf8_lossy(shown), f)?;
        match rest {
            [] => Ok(()),
            rest => write!(f, " and {} bytes", rest.len()),
        }
    }
}

impl fmt::Debug for SetIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entropy: _,
            unix_time,
            identity,
        } = self;
        f.debug_struct("SetIdentity")
            .field("unix_time", unix_time)
            .field("identity", identity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("id", &self.id)
            .field("program", &self.program())
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("variables", &self.env.len())
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("All"),
            Self::Except(names) => write!(f, "Except({} names)", names.len()),
            Self::Nothing => f.write_str("Nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::frame::Decoder;
    use crate::limits::{ENTROPY, MAX_CHUNK};
    use crate::message::{ExecId, Identity, Request, RequestId, Stderr, Stream, UnixTime};
    use crate::outgoing::Outgoing;
    use crate::records::Records;
    use crate::ring::Ring;

    #[test]
    fn a_message_shows_neither_content_nor_a_megabyte() {
        let bytes = b"s3cret".repeat(MAX_CHUNK / 6);
        let id = RequestId(7);
        let exec = Exec {
            id: ExecId(1),
            argv: vec!["x".repeat(1 << 20).as_str().into(); 2],
            program: None,
            env: vec![("TOKEN".into(), "s3cret".into())],
            inherited: Inherited::Except(vec!["x".into(); 1 << 16]),
            cwd: None,
            stdin: false,
            stderr: Stderr::Apart,
            timeout_ms: None,
            keep: false,
            user: None,
            tag: OsBytes::default(),
            terminal: None,
        };
        let request = Request::Exec(exec);
        let to_host = ToHost::Data {
            id,
            stream: Stream::File,
            bytes: bytes.clone(),
        };
        let shown: Vec<_> = vec![
            format!("{:?}", ToGuest::Data { id, bytes }),
            format!("{:?}", ToGuest::Request { id, request }),
            format!("{to_host:?}"),
        ];
        for text in shown {
            assert!(text.len() < 1000 && !text.contains("s3cret"), "{text}");
            assert!(
                text.contains("RequestId(7)") && text.contains("bytes"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_waits_to_be_read_or_sent_is_counted_and_not_shown() {
        let bytes = b"s3cret".repeat(1000);
        let data = ToHost::Data {
            id: RequestId(7),
            stream: Stream::Stdout,
            bytes: bytes.clone(),
        };
        let mut ring = Ring::default();
        ring.push(&bytes);
        let mut records = Records::default();
        records.push(&bytes);
        let mut outgoing = Outgoing::default();
        outgoing.push(&data);
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        let shown: Vec<_> = vec![
            format!("{ring:?}"),
            format!("{records:?}"),
            format!("{outgoing:?}"),
            format!("{decoder:?}"),
        ];
        for text in shown {
            assert!(text.len() < 200 && !text.contains("115, 51"), "{text}");
            assert!(text.contains("60"), "{text}");
        }
    }

    #[test]
    fn entropy_is_not_shown() {
        let new = SetIdentity {
            entropy: [0xa7; ENTROPY],
            unix_time: UnixTime {
                seconds: 1,
                nanos: 2,
            },
            identity: Identity {
                machine_id: [1; 16],
                boot_id: [2; 16],
                hostname: "vm".into(),
            },
        };
        let text = format!("{new:?}");
        assert!(text.contains("vm") && !text.contains("167"), "{text}");
        assert!(!text.to_lowercase().contains("a7"), "{text}");
    }
}
