//! Entry point of the fuzz target `host_to_guest` in `fuzz/`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::fuzzing;
use ironclaw_protocol::message::{ToGuest, ToHost};

use crate::guest::{Guest, Machine};
use crate::session::Session;

/// More turns than any request of a test needs; one that never ends is given up.
const MAX_TURNS: u32 = 200;

/// A millisecond passes at each reading of its clock.
#[derive(Debug, Default)]
struct Ticking(Cell<u64>);

impl Machine for Ticking {
    fn uptime(&self) -> Duration {
        self.0.set(self.0.get() + 1);
        Duration::from_millis(self.0.get())
    }

    fn spare_mebibytes(&self) -> u32 {
        4
    }

    fn dirty_mebibyte(&mut self, _: u32) {}
}

/// Sends a host's messages to a guest. The first byte decides whether a hello is sent first, and
/// whether the rest is a raw stream or frames: lengths in two bytes, and payloads. All answers must
/// follow the protocol.
pub fn host_to_guest(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let mut stream = Vec::new();
    if first & 1 == 0 {
        stream.extend_from_slice(&MAGIC);
        let hello = ToGuest::Hello {
            version: VERSION,
            session: 7,
        };
        assert!(encode(&hello, &mut stream).is_ok(), "a hello is short");
    }
    if first & 0x80 == 0 {
        stream.extend(fuzzing::framed(rest));
    } else {
        stream.extend_from_slice(rest);
    }
    let mut guest = Guest::new(Box::new(Ticking::default()), b"fuzz");
    let mut session = Session::new();
    let mut host = Decoder::new();
    // In pieces, as they come from a network.
    for piece in stream.chunks(1000) {
        session.receive(piece);
        listen(&mut session, &mut guest, &mut host);
    }
}

fn listen(session: &mut Session, guest: &mut Guest, host: &mut Decoder) {
    for _ in 0..MAX_TURNS {
        let worked = session.pump(guest);
        let length = session.output().len();
        host.push(session.output());
        session.sent(length);
        loop {
            match host.next() {
                Ok(None) => break,
                Ok(Some(Event::Opened)) => {}
                Ok(Some(Event::Frame(payload))) => match decode::<ToHost>(payload) {
                    Ok(message) => {
                        assert!(message.validate().is_ok(), "the guest says {message:?}");
                    }
                    Err(error) => unreachable!("the guest breaks the protocol: {error}"),
                },
                Err(error) => unreachable!("the guest breaks the protocol: {error}"),
            }
        }
        if !worked {
            return;
        }
    }
}
