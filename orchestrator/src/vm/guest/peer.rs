//! A simulated guest at the other end of the stream. It frames by itself, and not by the session that
//! all guests share: it has to say what those never would, in a wrong order or version.

use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::message::{Request, RequestId, ToGuest, ToHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> Option<ToGuest> {
        loop {
            match self.decoder.next().unwrap() {
                Some(Event::Opened) => {}
                Some(Event::Frame(payload)) => return Some(decode(payload).unwrap()),
                None => {
                    let mut chunk = vec![0; 65536];
                    let count = self.stream.read(&mut chunk).await.ok()?;
                    if count == 0 {
                        return None;
                    }
                    self.decoder.push(&chunk[..count]);
                }
            }
        }
    }

    pub(crate) async fn say(&mut self, message: &ToHost) {
        let mut frame = Vec::new();
        encode(message, &mut frame).unwrap();
        // The host may have closed the line, which is what a test checks then.
        let _ = self.stream.write_all(&frame).await;
    }

    pub(crate) async fn greet(&mut self, version: u16) {
        let Some(ToGuest::Hello { session, .. }) = self.next().await else {
            panic!("no hello")
        };
        self.stream.write_all(&MAGIC).await.unwrap();
        self.say(&ToHost::Hello {
            version,
            session,
            agent: "test".to_owned(),
        })
        .await;
    }

    pub(crate) async fn request(&mut self) -> (RequestId, Request) {
        loop {
            match self.next().await {
                Some(ToGuest::Request { id, request }) => return (id, request),
                // Of a command answered before.
                Some(ToGuest::Acknowledge { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
