//! Tests streams of files, and of events, with a simulated guest.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use ironclaw_protocol::VERSION;
use ironclaw_protocol::limits::{MAX_CHUNK, OUTPUT_WINDOW, WINDOW};
use ironclaw_protocol::message::{Failure, RequestId, Stream, ToGuest, ToHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::peer::Peer;
use super::*;

fn pair() -> (Guest, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Guest::open(ours).unwrap(), Peer::new(theirs))
}

async fn send(peer: &mut Peer, id: RequestId, bytes: &[u8]) {
    let (stream, bytes) = (Stream::File, bytes.to_vec());
    peer.say(&ToHost::Data { id, stream, bytes }).await;
}

async fn done(peer: &mut Peer, id: RequestId, outcome: Outcome) {
    peer.say(&ToHost::Done { id, outcome }).await;
}

/// Takes the content of a file to write, up to its end, granting credit for each byte.
async fn take(peer: &mut Peer, id: RequestId) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        match peer.next().await {
            Some(ToGuest::Data { bytes, .. }) => {
                let credit = u32::try_from(bytes.len()).unwrap();
                content.extend_from_slice(&bytes);
                peer.say(&ToHost::Credit { id, bytes: credit }).await;
            }
            Some(ToGuest::Eof { .. }) => return content,
            other => panic!("{other:?}"),
        }
    }
}

fn kind(error: &io::Error) -> io::ErrorKind {
    let inner = error.get_ref().unwrap();
    assert!(inner.is::<GuestError>(), "{error:?}");
    error.kind()
}

#[tokio::test]
async fn a_file_is_read_in_pieces_of_any_size_and_waits_for_a_slow_reader() {
    let (guest, mut peer) = pair();
    let total = 3 * OUTPUT_WINDOW as usize;
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let (mut sent, mut taken) = (0, 0);
        while sent < total {
            // No more than a window before the host has taken some of it.
            if sent - taken == OUTPUT_WINDOW as usize {
                match peer.next().await {
                    Some(ToGuest::Taken { offset, .. }) => taken = usize::try_from(offset).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            let size = MAX_CHUNK.min(OUTPUT_WINDOW as usize - (sent - taken));
            send(&mut peer, id, &vec![7; size.min(total - sent)]).await;
            sent += size.min(total - sent);
        }
        let (mode, bytes) = (0o644, total as u64);
        done(&mut peer, id, Outcome::FileRead { mode, bytes }).await;
    };
    let read = async {
        let mut file = guest.open_file("/big").await.unwrap();
        let mut piece = [0; 1000];
        file.read_exact(&mut piece).await.unwrap();
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).await.unwrap();
        assert_eq!(
            file.read(&mut piece).await.unwrap(),
            0,
            "the end stays the end"
        );
        rest.len() + piece.len()
    };
    let (read, ()) = tokio::join!(read, serve);
    assert_eq!(read, total);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told_when_it_is_opened_and_a_cut_one_when_it_is_read() {
    let (guest, mut peer) = pair();
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let failure = Failure {
            kind: FailureKind::NotFound,
            message: "no such file".to_owned(),
        };
        done(&mut peer, id, Outcome::Failed(failure)).await;
        let (id, _) = peer.request().await;
        send(&mut peer, id, b"abc").await;
        let (mode, bytes) = (0o644, 4);
        done(&mut peer, id, Outcome::FileRead { mode, bytes }).await;
    };
    let read = async {
        let error = guest.open_file("/x").await.unwrap_err();
        assert_eq!(kind(&error.into()), io::ErrorKind::NotFound);
        let mut file = guest.open_file("/cut").await.unwrap();
        let error = file.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(kind(&error), io::ErrorKind::InvalidData);
    };
    tokio::join!(read, serve);
}

#[tokio::test]
async fn a_read_that_was_cancelled_loses_no_byte_and_one_that_was_dropped_ends_the_request() {
    let (guest, mut peer) = pair();
    let (ask, id) = tokio::join!(guest.open_file("/x"), async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        send(&mut peer, id, b"a").await;
        id
    });
    let mut file = ask.unwrap();
    let mut piece = [0; 1];
    file.read_exact(&mut piece).await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_millis(20), file.read(&mut piece)).await;
    cancelled.unwrap_err();
    send(&mut peer, id, b"bc").await;
    assert_eq!(file.read(&mut piece).await.unwrap(), 1);
    assert_eq!(&piece, b"b");
    drop(file);
    assert_eq!(peer.next().await, Some(ToGuest::Cancel { id }));
}

#[tokio::test]
async fn a_read_goes_on_where_it_was_when_its_session_was_lost() {
    let (guest, mut peer) = pair();
    let begin = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        send(&mut peer, id, b"abc").await;
    };
    let (file, ()) = tokio::join!(guest.open_file("/x"), begin);
    let (mut file, mut piece) = (file.unwrap(), [0; 2]);
    file.read_exact(&mut piece).await.unwrap();
    drop(peer);
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.reconnect(ours).unwrap();
    let mut peer = Peer::new(theirs);
    let again = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        for part in [&b"ab"[..], b"cd", b"e"] {
            send(&mut peer, id, part).await;
        }
        let (mode, bytes) = (0o644, 5);
        done(&mut peer, id, Outcome::FileRead { mode, bytes }).await;
    };
    let mut rest = Vec::new();
    let (read, ()) = tokio::join!(file.read_to_end(&mut rest), again);
    read.unwrap();
    assert_eq!(rest, b"cde");
}

#[tokio::test]
async fn a_file_is_written_as_fast_as_the_guest_takes_it_and_is_complete_when_it_says_so() {
    let (guest, mut peer) = pair();
    let total = 3 * WINDOW as usize + 5;
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let content = take(&mut peer, id).await;
        let bytes = content.len() as u64;
        done(&mut peer, id, Outcome::FileWritten { bytes }).await;
        content
    };
    let write = async {
        let mut file = guest.create_file("/big", 0o644).await.unwrap();
        file.write_all(&vec![7; total]).await.unwrap();
        file.finish().await.unwrap()
    };
    let (written, content) = tokio::join!(write, serve);
    assert_eq!(written, total as u64);
    assert!(content.len() == total && content.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_file_that_is_not_finished_is_taken_back_and_never_completed() {
    let (guest, mut peer) = pair();
    let (file, id) = tokio::join!(guest.create_file("/x", 0o644), async {
        peer.greet(VERSION).await;
        peer.request().await.0
    });
    let mut file = file.unwrap();
    file.write_all(b"half").await.unwrap();
    file.flush().await.unwrap();
    drop(file);
    let bytes = b"half".to_vec();
    assert_eq!(peer.next().await, Some(ToGuest::Data { id, bytes }));
    // In place of the end of its content.
    assert_eq!(peer.next().await, Some(ToGuest::Cancel { id }));
}

#[tokio::test]
async fn a_write_that_the_guest_refuses_says_why() {
    let (guest, mut peer) = pair();
    let refuse = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let failure = Failure {
            kind: FailureKind::NoSpace,
            message: "full".to_owned(),
        };
        done(&mut peer, id, Outcome::Failed(failure)).await;
    };
    let write = async {
        let mut file = guest.create_file("/x", 0o644).await.unwrap();
        // More than is accepted without the guest.
        let written = file.write_all(&vec![0; 4 * WINDOW as usize]).await;
        assert_eq!(kind(&written.unwrap_err()), io::ErrorKind::StorageFull);
    };
    tokio::join!(write, refuse);
}

#[tokio::test]
async fn a_write_whose_session_was_lost_says_to_begin_again() {
    let (guest, mut peer) = pair();
    let (file, _) = tokio::join!(guest.create_file("/x", 0o644), async {
        peer.greet(VERSION).await;
        peer.request().await
    });
    let file = file.unwrap();
    drop(peer);
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.reconnect(ours).unwrap();
    let mut peer = Peer::new(theirs);
    let (finished, ()) = tokio::join!(file.finish(), peer.greet(VERSION));
    let error = finished.unwrap_err();
    assert!(matches!(error, GuestError::Interrupted { .. }), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn events_come_as_a_stream_that_ends_behind_the_command() {
    let (guest, mut peer) = pair();
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let (stream, bytes) = (Stream::Stdout, b"out".to_vec());
        peer.say(&ToHost::Data { id, stream, bytes }).await;
        done(&mut peer, id, Outcome::Exited(3)).await;
    };
    let listen = async {
        let mut events = guest.start(["cmd"]).await.unwrap().into_events();
        let mut all = Vec::new();
        while let Some(event) = poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await {
            all.push(event.unwrap());
        }
        all
    };
    let (all, ()) = tokio::join!(listen, serve);
    let expected = [
        ExecEvent::Stdout(b"out".to_vec()),
        ExecEvent::Ended(ExitStatus::Code(3)),
    ];
    assert_eq!(all, expected);
}

#[tokio::test]
async fn an_archive_is_unpacked_when_the_guest_says_so_and_a_refusal_has_its_reason() {
    let (guest, mut peer) = pair();
    let files = guest.files();
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let content = take(&mut peer, id).await;
        let (files, omitted) = (2, 1);
        done(&mut peer, id, Outcome::Extracted { files, omitted }).await;
        let (id, _) = peer.request().await;
        let failure = Failure {
            kind: FailureKind::Invalid,
            message: "unpack ../x: its path leads out of the directory".to_owned(),
        };
        done(&mut peer, id, Outcome::Failed(failure)).await;
        content
    };
    let unpack = async {
        let mut archive = files.extract("/d", Owners::OfUser).await.unwrap();
        archive.write_all(&[7; 3 * MAX_CHUNK]).await.unwrap();
        let unpacked = archive.finish().await.unwrap();
        assert_eq!((unpacked.files, unpacked.omitted), (2, 1));
        let mut archive = files.extract("/d", Owners::OfUser).await.unwrap();
        let error = loop {
            if let Err(error) = archive.write_all(&[7; MAX_CHUNK]).await {
                break error;
            }
        };
        assert_eq!(kind(&error), io::ErrorKind::InvalidInput);
        // The same again.
        archive.finish().await.unwrap_err()
    };
    let (error, content) = tokio::join!(unpack, serve);
    assert!(error.to_string().contains("leads out"), "{error}");
    assert_eq!(content.len(), 3 * MAX_CHUNK);
}
