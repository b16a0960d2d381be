//! A guest's agent, as seen by a minimal client.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::limits::ENTROPY;
use ironclaw_protocol::message::{
    Identity, Request, RequestId, SetIdentity, ToGuest, ToHost, UnixTime,
};

/// Requests before a measurement, so that the guest's working set is in memory.
const PRIMING: u32 = 9;

/// The request to the agent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Ping,
    /// To apply an identity.
    Identity,
}

impl Ask {
    fn request(self) -> Request {
        match self {
            Self::Ping => Request::Ping,
            Self::Identity => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                Request::SetIdentity(SetIdentity {
                    entropy: [7; ENTROPY],
                    unix_time: UnixTime {
                        seconds: now.as_secs(),
                        nanos: now.subsec_nanos(),
                    },
                    identity: Identity {
                        machine_id: [1; 16],
                        boot_id: [2; 16],
                        hostname: "bare".to_owned(),
                    },
                })
            }
        }
    }
}

/// A connection to it.
pub(super) struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    ask: Ask,
    asked: u32,
}

impl Agent {
    /// Wraps a stream to the agent.
    pub(super) fn over(mut stream: UnixStream, ask: Ask) -> Self {
        let mut hello = MAGIC.to_vec();
        let message = ToGuest::Hello {
            version: VERSION,
            session: 1,
        };
        encode(&message, &mut hello).unwrap();
        stream.write_all(&hello).unwrap();
        Self {
            stream,
            decoder: Decoder::new(),
            ask,
            asked: 0,
        }
    }

    pub(super) fn prime(&mut self) {
        for _ in 0..PRIMING {
            self.ask();
            self.hear();
        }
    }

    pub(super) fn ask(&mut self) {
        self.asked += 1;
        let mut bytes = Vec::new();
        let message = ToGuest::Request {
            id: RequestId(self.asked),
            request: self.ask.request(),
        };
        encode(&message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Waits for the answer to the last request.
    pub(super) fn hear(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            while let Some(event) = self.decoder.next().unwrap() {
                if let Event::Frame(payload) = event
                    && let ToHost::Done { id, .. } = decode(payload).unwrap()
                    && id == RequestId(self.asked)
                {
                    return;
                }
            }
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the guest ended the connection");
            self.decoder.push(&chunk[..read]);
        }
    }
}
