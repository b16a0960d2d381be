//! Tests that nothing secret, and no megabyte, is shown of commands and their guests.

use ironclaw_protocol::VERSION;
use ironclaw_protocol::message::{RequestId, Stream, ToHost};
use tokio::net::UnixStream;

use super::peer::Peer;
use super::*;

const SECRET: &str = "s3cret";

#[tokio::test]
async fn a_running_command_and_its_guest_show_neither_secrets_nor_a_megabyte() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let guest = Guest::open(ours).unwrap();
    let mut peer = Peer::new(theirs);
    let large = SECRET.repeat(1 << 12);
    let command = Command::new("cat")
        .env("TOKEN", SECRET)
        .stdin(large.clone());
    // Not answered: what it sends, and what came, waits.
    let (running, id) = tokio::join!(guest.start(command), async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let (stream, bytes) = (Stream::Stdout, large.clone().into_bytes());
        peer.say(&ToHost::Data { id, stream, bytes }).await;
        id
    });
    assert_eq!(id, RequestId(0));
    let mut running = running.unwrap();
    let event = running.next().await.unwrap();
    assert_eq!(event, ExecEvent::Stdout(large.into_bytes()));
    let shown = [
        format!("{guest:?}"),
        format!("{running:?}"),
        format!("{event:?}"),
        format!("{:?}", running.into_streams()),
    ];
    for text in shown {
        assert!(text.len() < 2048 && !text.contains(SECRET), "{text}");
    }
}
