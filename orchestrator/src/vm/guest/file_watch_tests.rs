//! Tests watches with a simulated guest.

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;

use futures_core::Stream as _;
use ironclaw_protocol::VERSION;
use ironclaw_protocol::file::{self, EventKind};
use ironclaw_protocol::message::{
    Failure, FailureKind, Outcome, Request, RequestId, Stream, ToGuest, ToHost,
};
use ironclaw_protocol::records;

use super::peer::Peer;
use super::*;

async fn pair() -> (Guest, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (guest, mut peer) = (Guest::open(ours).unwrap(), Peer::new(theirs));
    peer.greet(VERSION).await;
    (guest, peer)
}

async fn tell(peer: &mut Peer, id: RequestId, events: &[file::FileEvent]) {
    let mut bytes = Vec::new();
    for event in events {
        records::append(event, &mut bytes).unwrap();
    }
    let stream = Stream::File;
    peer.say(&ToHost::Data { id, stream, bytes }).await;
}

fn event(kind: EventKind, path: &str, from: Option<&str>) -> file::FileEvent {
    file::FileEvent {
        kind,
        path: path.into(),
        from: from.map(Into::into),
        is_directory: false,
    }
}

/// Accepts a watch.
async fn open(peer: &mut Peer) -> RequestId {
    let (id, request) = peer.request().await;
    assert!(matches!(request, Request::File(_)), "{request:?}");
    peer.say(&ToHost::Opened { id }).await;
    id
}

#[tokio::test]
async fn events_come_as_a_stream_that_ends_with_what_is_watched() {
    let (guest, mut peer) = pair().await;
    let files = guest.files();
    let (watch, id) = tokio::join!(files.watch_recursive("/d"), open(&mut peer));
    let renamed = event(EventKind::Renamed, "/d/b", Some("/d/a"));
    let removed = event(EventKind::Removed, "/d", None);
    tell(&mut peer, id, &[renamed, removed]).await;
    let outcome = Outcome::Unwatched;
    peer.say(&ToHost::Done { id, outcome }).await;
    let mut events = watch.unwrap().into_events();
    let mut all = Vec::new();
    while let Some(event) = poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await {
        all.push(event.unwrap());
    }
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[0].kind, all[0].path.as_path()),
        (EventKind::Renamed, Path::new("/d/b"))
    );
    assert_eq!(all[0].from.as_deref(), Some(Path::new("/d/a")));
    assert_eq!(all[1].kind, EventKind::Removed);
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_cancelled_and_one_that_is_refused_says_why() {
    let (guest, mut peer) = pair().await;
    let files = guest.files();
    let (watch, id) = tokio::join!(files.watch("/d"), open(&mut peer));
    drop(watch.unwrap());
    assert!(matches!(peer.next().await, Some(ToGuest::Cancel { id: of }) if of == id));
    let refuse = async {
        let (id, _) = peer.request().await;
        let outcome = Outcome::Failed(Failure {
            kind: FailureKind::NotFound,
            message: "watch /d: it is gone".to_owned(),
        });
        peer.say(&ToHost::Done { id, outcome }).await;
    };
    let (refused, ()) = tokio::join!(files.watch("/d"), refuse);
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("it is gone"), "{refused}");
}

#[tokio::test]
async fn a_guest_that_tells_of_what_is_not_watched_is_not_believed() {
    for lie in [
        event(EventKind::Modified, "/etc/passwd", None),
        event(EventKind::Modified, "/d/../etc/passwd", None),
        event(EventKind::Renamed, "/d/a", None),
        event(EventKind::Created, "/d/a", Some("/d/b")),
    ] {
        let (guest, mut peer) = pair().await;
        let files = guest.files();
        let (watch, id) = tokio::join!(files.watch("/d"), open(&mut peer));
        tell(&mut peer, id, std::slice::from_ref(&lie)).await;
        let told = watch.unwrap().next().await;
        assert!(
            matches!(told, Err(GuestError::WrongAnswer { .. })),
            "{lie:?}: {told:?}"
        );
    }
}

#[tokio::test]
async fn a_watch_goes_on_over_the_next_connection_and_tells_that_it_may_have_missed_something() {
    let (guest, mut peer) = pair().await;
    let files = guest.files();
    let (watch, id) = tokio::join!(files.watch("/d"), open(&mut peer));
    let mut watch = watch.unwrap();
    // Half an event is lost.
    let mut bytes = Vec::new();
    records::append(&event(EventKind::Modified, "/d/a", None), &mut bytes).unwrap();
    bytes.pop();
    let stream = Stream::File;
    peer.say(&ToHost::Data { id, stream, bytes }).await;
    let reconnect = async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        guest.reconnect(ours).unwrap();
        let mut peer = Peer::new(theirs);
        peer.greet(VERSION).await;
        let id = open(&mut peer).await;
        tell(&mut peer, id, &[event(EventKind::Modified, "/d/b", None)]).await;
        peer
    };
    let both = async {
        let missed = watch.next().await.unwrap().unwrap();
        (missed, watch.next().await.unwrap().unwrap())
    };
    let ((missed, next), _peer) = tokio::join!(both, reconnect);
    assert_eq!(
        (missed.kind, missed.path.as_path()),
        (EventKind::Overflow, Path::new("/d"))
    );
    assert_eq!(
        (next.kind, next.path.as_path()),
        (EventKind::Modified, Path::new("/d/b"))
    );
}
