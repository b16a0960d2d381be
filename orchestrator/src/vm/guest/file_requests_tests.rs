//! Tests requests about files with a simulated guest.

use std::path::Path;
use std::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::file::{FileInfo, FileKind, FileTime};
use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{
    Failure, FailureKind, Outcome, RequestId, Stream, ToGuest, ToHost,
};
use ironclaw_protocol::records;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::peer::Peer;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

async fn pair() -> (Guest, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (guest, mut peer) = (Guest::open(ours).unwrap(), Peer::new(theirs));
    peer.greet(VERSION).await;
    (guest, peer)
}

fn file(path: &str) -> FileInfo {
    FileInfo {
        path: path.into(),
        kind: FileKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        owner: "user".into(),
        group: "".into(),
        size: 7,
        modified: FileTime {
            seconds: 1,
            nanos: 5,
        },
        target: None,
    }
}

fn content(id: RequestId, bytes: &[u8]) -> ToHost {
    ToHost::Data {
        id,
        stream: Stream::File,
        bytes: bytes.to_vec(),
    }
}

fn done(id: RequestId, outcome: Outcome) -> ToHost {
    ToHost::Done { id, outcome }
}

/// Lists `/d` of a guest that answers so.
async fn listed(answer: &[u8], files: u64) -> Result<Vec<super::FileInfo>, GuestError> {
    let (guest, mut peer) = pair().await;
    let serve = async {
        let (id, _) = peer.request().await;
        for part in answer.chunks(MAX_CHUNK) {
            peer.say(&content(id, part)).await;
        }
        peer.say(&done(id, Outcome::Listed { files, unread: 0 }))
            .await;
        peer
    };
    let files = guest.files();
    let (listed, _peer) = tokio::join!(files.list("/d"), serve);
    listed
}

#[tokio::test]
async fn a_list_is_sorted_and_what_a_guest_may_not_list_is_refused() {
    let mut good = Vec::new();
    for path in ["/d/b", "/d/a"] {
        records::append(&file(path), &mut good).unwrap();
    }
    let files = listed(&good, 2).await.unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.as_path()).collect();
    assert_eq!(paths, [Path::new("/d/a"), Path::new("/d/b")]);
    assert_eq!((files[0].owner.to_str(), files[0].size), (Some("user"), 7));

    let one = |info: &FileInfo| {
        let mut bytes = Vec::new();
        records::append(info, &mut bytes).unwrap();
        bytes
    };
    let outside = one(&file("/etc/passwd"));
    let detour = one(&file("/d/../etc/passwd"));
    let mode = one(&FileInfo {
        mode: 0o10_000,
        ..file("/d/a")
    });
    let half = &good[..good.len() - 1];
    for (bytes, files) in [
        (&outside[..], 1),
        (&detour, 1),
        (&mode, 1),
        (&good, 3),
        (half, 1),
    ] {
        let refused = listed(bytes, files).await;
        assert!(
            matches!(refused, Err(GuestError::WrongAnswer { .. })),
            "{refused:?}"
        );
    }
    let endless = u32::MAX.to_le_bytes();
    assert!(listed(&endless, 0).await.is_err());
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_asked_for_again_and_its_own_success_is_no_failure() {
    let (guest, mut peer) = pair().await;
    let serve = async {
        let (_, first) = peer.request().await;
        let (ours, theirs) = UnixStream::pair().unwrap();
        guest.reconnect(ours).unwrap();
        let mut peer = Peer::new(theirs);
        peer.greet(VERSION).await;
        let (id, again) = peer.request().await;
        assert_eq!(first, again);
        let failure = Failure {
            kind: FailureKind::NotFound,
            message: "it is gone".to_owned(),
        };
        peer.say(&done(id, Outcome::Failed(failure))).await;
        peer
    };
    let files = guest.files();
    let (removed, _peer) = tokio::join!(files.remove("/d/a"), serve);
    removed.unwrap();
}

#[tokio::test]
async fn a_write_that_is_given_up_cancels_the_file_and_does_not_end_its_content() {
    let (guest, mut peer) = pair().await;
    let serve = async {
        let mut cancelled = 0;
        while cancelled < 2 {
            match peer.next().await {
                Some(ToGuest::Request { .. } | ToGuest::Data { .. }) => {}
                Some(ToGuest::Cancel { .. }) => cancelled += 1,
                // Such as the end of the content.
                other => panic!("{other:?}"),
            }
        }
        peer
    };
    let write = async {
        let files = guest.files();
        let mut dropped = files.writer("/f", WriteOptions::new()).await.unwrap();
        dropped.write_all(b"half").await.unwrap();
        dropped.flush().await.unwrap();
        tokio::task::yield_now().await;
        drop(dropped);
        // More than a window, of which the guest takes nothing.
        let endless = vec![0; 1 << 20];
        let write = files.write("/f", WriteOptions::new(), &endless);
        timeout(Duration::from_millis(200), write)
            .await
            .unwrap_err();
    };
    let ((), _peer) = timeout(TIMEOUT, async { tokio::join!(write, serve) })
        .await
        .unwrap();
}
