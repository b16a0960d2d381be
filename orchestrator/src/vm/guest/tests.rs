//! Tests sessions with a simulated guest.

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{MAGIC, encode};
use ironclaw_protocol::limits::{MAX_CHUNK, MAX_REQUESTS, OUTPUT_WINDOW, WINDOW};
use ironclaw_protocol::message::{Failure, FailureKind, RequestId, Stream, ToGuest, ToHost};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use super::file_transfer::FILE_STALL_TIMEOUT;
use super::peer::Peer;
use super::*;
use crate::vm::exit_reason::ExitReason;
use crate::vm::vmm::Exit;

const TIMEOUT: Duration = Duration::from_secs(20);

fn pair() -> (Guest, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Guest::open(ours).unwrap(), Peer::new(theirs))
}

/// A guest whose VM ends on demand.
fn vm() -> (Guest, Peer, oneshot::Sender<Exit>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (end, ended) = oneshot::channel();
    let exited = Box::pin(async { ended.await.unwrap() });
    let guest = Guest {
        connection: Connection::open(ours, Some(exited)).unwrap(),
        defaults: Defaults::default(),
    };
    (guest, Peer::new(theirs), end)
}

#[tokio::test]
async fn requests_wait_for_the_guest_and_skip_what_an_older_session_left() {
    let (guest, mut peer) = pair();
    let answer = async {
        peer.stream.write_all(b"rest of a frame").await.unwrap();
        peer.stream.write_all(&MAGIC).await.unwrap();
        let stale = ToHost::Hello {
            version: VERSION,
            session: 1,
            agent: String::new(),
        };
        peer.say(&stale).await;
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        peer.say(&ToHost::Done {
            id,
            outcome: Outcome::Pong,
        })
        .await;
    };
    let (pong, ()) = tokio::join!(guest.ping(TIMEOUT), answer);
    pong.unwrap();
}

#[tokio::test]
async fn another_version_is_refused_with_what_to_do() {
    let (guest, mut peer) = pair();
    let (pong, ()) = tokio::join!(guest.ping(TIMEOUT), peer.greet(VERSION + 1));
    let text = pong.unwrap_err().to_string();
    assert!(text.contains("ironclaw template build"), "{text}");
}

#[tokio::test]
async fn output_comes_with_credit_and_the_exit_code() {
    let (guest, mut peer) = pair();
    let total = 3 * WINDOW as usize;
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let (mut sent, mut taken, mut left) = (0, 0, total);
        while left > 0 {
            let credit = OUTPUT_WINDOW as usize + taken - sent;
            let size = MAX_CHUNK.min(left).min(credit);
            if size == 0 {
                match peer.next().await {
                    Some(ToGuest::Taken { offset, .. }) => taken = usize::try_from(offset).unwrap(),
                    other => panic!("{other:?}"),
                }
                continue;
            }
            let bytes = vec![7; size];
            peer.say(&ToHost::Data {
                id,
                stream: Stream::Stdout,
                bytes,
            })
            .await;
            (sent, left) = (sent + size, left - size);
        }
        peer.say(&ToHost::Data {
            id,
            stream: Stream::Stderr,
            bytes: b"e".to_vec(),
        })
        .await;
        peer.say(&ToHost::Done {
            id,
            outcome: Outcome::Exited(3),
        })
        .await;
    };
    let (output, ()) = tokio::join!(guest.exec(["cmd"]), serve);
    let output = output.unwrap();
    assert_eq!(
        (output.status, output.stdout.len()),
        (ExitStatus::Code(3), total)
    );
    assert_eq!(output.stderr, b"e");
}

#[tokio::test]
async fn a_hostile_guest_loses_its_connection_and_every_request_is_told() {
    type Attack = fn(RequestId) -> Vec<u8>;
    fn framed(message: &ToHost) -> Vec<u8> {
        let mut frame = Vec::new();
        encode(message, &mut frame).unwrap();
        frame
    }
    let attacks: [(&str, Attack); 6] = [
        ("limit", |_| u32::MAX.to_le_bytes().to_vec()),
        ("message", |_| [4, 0, 0, 0, 250, 250, 250, 250].to_vec()),
        ("not open", |_| {
            framed(&ToHost::Done {
                id: RequestId(77),
                outcome: Outcome::Pong,
            })
        }),
        ("more than it may", |id| {
            let bytes = vec![0; MAX_CHUNK];
            let chunk = framed(&ToHost::Data {
                id,
                stream: Stream::Stdout,
                bytes,
            });
            // Nobody takes anything from the ping's queue before its end.
            chunk.repeat(WINDOW as usize / MAX_CHUNK * 40)
        }),
        ("credit", |id| framed(&ToHost::Credit { id, bytes: WINDOW })),
        ("hello", |_| {
            framed(&ToHost::Hello {
                version: VERSION,
                session: 0,
                agent: String::new(),
            })
        }),
    ];
    for (word, attack) in attacks {
        let (guest, mut peer) = pair();
        let mut running = {
            let (running, id) = tokio::join!(guest.start(["cmd"]), async {
                peer.greet(VERSION).await;
                peer.request().await.0
            });
            let bytes = attack(id);
            tokio::spawn(async move {
                let _ = peer.stream.write_all(&bytes).await;
                // Kept open: the host has to close it.
                while peer.next().await.is_some() {}
            });
            running.unwrap()
        };
        if word == "more than it may" {
            // Takes nothing on purpose; a second request sees the end.
            let error = guest.ping(TIMEOUT).await.unwrap_err();
            assert!(error.to_string().contains(word), "{word}: {error}");
            continue;
        }
        let error = running.next().await.unwrap_err();
        let GuestError::Closed { reason, .. } = &error else {
            panic!("{word}: {error:?}");
        };
        assert!(matches!(reason, ExitReason::Protocol(_)), "{reason:?}");
        assert!(reason.is_failure());
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(guest.ping(TIMEOUT).await.is_err());
    }
}

#[tokio::test]
async fn a_program_tells_a_vm_that_died_from_one_that_it_gave_back() {
    let (guest, mut peer, end) = vm();
    let (ping, ()) = tokio::join!(guest.ping(TIMEOUT), async {
        peer.greet(VERSION).await;
        end.send(killed()).unwrap();
    });
    let Err(GuestError::Closed { reason, .. }) = ping else {
        panic!("{ping:?}");
    };
    assert_eq!(reason, ExitReason::vmm_ended(killed()));
    assert!(reason.is_failure());

    let (guest, mut peer) = pair();
    let running = guest.start(["cmd"]);
    let (running, _) = tokio::join!(running, async { peer.greet(VERSION).await });
    drop(guest);
    let error = running.unwrap().next().await.unwrap_err();
    let GuestError::Closed { reason, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, ExitReason::Dropped);
    assert!(!reason.is_failure(), "it is not to be tried again");
}

#[tokio::test]
async fn a_dropped_command_is_cancelled_and_the_connection_goes_on() {
    let (guest, mut peer) = pair();
    let (running, id) = tokio::join!(guest.start(["sleep", "1000"]), async {
        peer.greet(VERSION).await;
        peer.request().await.0
    });
    drop(running);
    assert_eq!(peer.next().await, Some(ToGuest::Cancel { id }));
    let failure = Failure {
        kind: FailureKind::Cancelled,
        message: String::new(),
    };
    peer.say(&ToHost::Done {
        id,
        outcome: Outcome::Failed(failure),
    })
    .await;
    let (pong, ()) = tokio::join!(guest.ping(TIMEOUT), async {
        let (id, _) = peer.request().await;
        peer.say(&ToHost::Done {
            id,
            outcome: Outcome::Pong,
        })
        .await;
    });
    pong.unwrap();
}

#[tokio::test]
async fn a_guest_that_ignores_a_cancelled_command_is_idle_all_the_same() {
    let (guest, mut peer) = pair();
    let (running, _) = tokio::join!(guest.start(["sleep", "1000"]), async {
        peer.greet(VERSION).await;
        peer.request().await.0
    });
    let idle = Duration::from_millis(20);
    let activity = guest.activity();
    let in_use = tokio::time::timeout(2 * idle, activity.none_for(idle)).await;
    assert!(in_use.is_err(), "a command runs");
    drop(running);
    let idle = tokio::time::timeout(TIMEOUT, activity.none_for(idle)).await;
    idle.expect("nobody waits for anything");
}

#[tokio::test]
async fn a_file_that_can_not_be_written_says_why_although_content_is_left() {
    let (guest, mut peer) = pair();
    let content = vec![1; 4 * WINDOW as usize];
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let failure = Failure {
            kind: FailureKind::NoSuchDirectory,
            message: "no directory\x1b[2J /x".to_owned(),
        };
        peer.say(&ToHost::Done {
            id,
            outcome: Outcome::Failed(failure),
        })
        .await;
        while let Some(message) = peer.next().await {
            if matches!(message, ToGuest::Request { .. }) {
                break;
            }
        }
    };
    let put = async {
        let result = guest.put_file("/x/y", 0o600, &content).await;
        drop(guest);
        result
    };
    let (result, ()) = tokio::join!(put, serve);
    match result {
        Err(GuestError::Failed {
            kind: FailureKind::NoSuchDirectory,
            message,
        }) => {
            assert!(!message.contains('\x1b'), "{message:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_given_up() {
    let (guest, _peer) = pair();
    let error = guest.ping(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, GuestError::NoAnswer { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_makes_no_progress_is_given_up() {
    // More than the guest takes without an answer.
    let content = vec![7; 2 * WINDOW as usize];
    let (guest, mut peer) = pair();
    let stalls = async {
        peer.greet(VERSION).await;
        // Reads what it is sent, and never answers.
        while peer.next().await.is_some() {}
    };
    let files = async {
        let put = guest.put_file("/x", 0o600, &content).await;
        let get = guest.get_file("/x", 10).await;
        drop(guest);
        [put, get.map(drop)]
    };
    let (results, ()) = tokio::join!(files, stalls);
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error, GuestError::NoAnswer { .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_may_take_long_as_long_as_it_goes_on() {
    let (guest, mut peer) = pair();
    let slow = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        for _ in 0..10 {
            tokio::time::sleep(FILE_STALL_TIMEOUT / 2).await;
            let (stream, bytes) = (Stream::File, b"x".to_vec());
            peer.say(&ToHost::Data { id, stream, bytes }).await;
        }
        let outcome = Outcome::FileRead {
            bytes: 10,
            mode: 0o600,
        };
        peer.say(&ToHost::Done { id, outcome }).await;
    };
    let (read, ()) = tokio::join!(guest.get_file("/x", 10), slow);
    assert_eq!(read.unwrap(), b"xxxxxxxxxx");
}

fn killed() -> Exit {
    Exit {
        status: "signal: 9 (SIGKILL)".to_owned(),
        log: "out of memory\n".to_owned(),
        words: String::new(),
    }
}

#[tokio::test]
async fn waiting_requests_learn_how_the_vm_ended() {
    let (guest, mut peer, end) = vm();
    let ends = async {
        peer.greet(VERSION).await;
        peer.request().await;
        drop(peer);
        // A process is reaped a moment after its sockets are closed.
        tokio::task::yield_now().await;
        end.send(killed()).unwrap();
    };
    let (output, ()) = tokio::join!(guest.exec(["cmd"]), ends);
    // Nor do later requests.
    for error in [output.map(drop), guest.ping(TIMEOUT).await] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("SIGKILL"), "{error}");
        assert!(error.contains("out of memory"), "{error}");
    }
}

#[tokio::test]
async fn the_error_of_a_dead_vm_carries_the_output_until_then() {
    let (guest, mut peer, end) = vm();
    let ends = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        for (stream, bytes) in [(Stream::Stdout, "progress"), (Stream::Stderr, "oh")] {
            let bytes = bytes.into();
            peer.say(&ToHost::Data { id, stream, bytes }).await;
        }
        drop(peer);
        end.send(killed()).unwrap();
    };
    let (output, ()) = tokio::join!(guest.exec(["cmd"]), ends);
    let Err(GuestError::Closed { printed, .. }) = output else {
        panic!("{output:?}")
    };
    let expected = Printed {
        stdout: b"progress".to_vec(),
        stderr: b"oh".to_vec(),
    };
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn input_is_wanted_when_the_guest_says_so_and_not_after_the_end() {
    let (guest, mut peer) = pair();
    let serve = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        assert_eq!(peer.next().await, Some(ToGuest::AwaitReader { id }));
        // However often it is reported, it counts once.
        for _ in 0..2 {
            peer.say(&ToHost::ReaderWaits { id }).await;
        }
        assert_eq!(peer.next().await, Some(ToGuest::AwaitReader { id }));
        let outcome = Outcome::Exited(0);
        peer.say(&ToHost::Done { id, outcome }).await;
    };
    let ask = async {
        let mut running = guest
            .start(Command::new("cat").stdin_piped())
            .await
            .unwrap();
        let mut stdin = running.take_stdin().unwrap();
        let wanted = [stdin.wanted().await.unwrap(), stdin.wanted().await.unwrap()];
        // The second may be reported early, and then not again.
        (wanted[0], stdin.wanted().await.unwrap())
    };
    let (wanted, ()) = tokio::join!(ask, serve);
    assert_eq!(wanted, (true, false));
}

#[tokio::test]
async fn a_request_before_the_end_was_noticed_learns_how_the_vm_ended() {
    let (guest, peer, end) = vm();
    drop(peer);
    // Its hello is not accepted any more.
    let ping = guest.ping(TIMEOUT);
    let (error, sent) = tokio::join!(ping, async { end.send(killed()) });
    sent.unwrap();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("SIGKILL"), "{error}");
}

#[tokio::test]
async fn a_vm_that_ended_is_told_although_its_socket_stays_open_and_its_last_answer_counts() {
    let (guest, mut peer, end) = vm();
    let ends = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        peer.say(&ToHost::Done {
            id,
            outcome: Outcome::Exited(7),
        })
        .await;
        end.send(killed()).unwrap();
    };
    let (output, ()) = tokio::join!(guest.exec(["cmd"]), ends);
    assert_eq!(output.unwrap().status, ExitStatus::Code(7));
    let error = guest.ping(TIMEOUT).await.unwrap_err().to_string();
    assert!(error.contains("SIGKILL"), "{error}");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_hangs_up_is_told_from_a_vm_that_ended() {
    let (guest, mut peer, _end) = vm();
    let hangs_up = async {
        peer.greet(VERSION).await;
        peer.request().await;
        drop(peer);
    };
    let (output, ()) = tokio::join!(guest.exec(["cmd"]), hangs_up);
    let error = output.unwrap_err().to_string();
    assert!(error.contains("hung up"), "{error}");
}

#[tokio::test]
async fn a_guest_that_says_all_but_hello_without_end_is_given_up() {
    let (guest, mut peer) = pair();
    let talk = tokio::spawn(async move {
        let mut noise = MAGIC.to_vec();
        noise.extend_from_slice(&[0; 1 << 16]);
        while peer.stream.write_all(&noise).await.is_ok() {}
    });
    let error = guest.ping(TIMEOUT).await.unwrap_err();
    assert!(error.to_string().contains("no hello"), "{error}");
    talk.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn input_waits_for_a_guest_that_grants_credit_and_reads_nothing() {
    let (guest, mut peer) = pair();
    let command = Command::new("cat").stdin_piped();
    let (running, id) = tokio::join!(guest.start(command), async {
        peer.greet(VERSION).await;
        peer.request().await.0
    });
    let mut running = running.unwrap();
    let mut stdin = running.take_stdin().unwrap();
    let mut written = 0;
    // Each time there is credit, and sooner or later no room on the line.
    let fed = async {
        while written < 100 * WINDOW as usize {
            stdin.write_all(&[0; MAX_CHUNK]).await.unwrap();
            written += MAX_CHUNK;
            let bytes = u32::try_from(MAX_CHUNK).unwrap();
            peer.say(&ToHost::Credit { id, bytes }).await;
            tokio::task::yield_now().await;
        }
    };
    let fed = tokio::time::timeout(Duration::from_secs(2), fed).await;
    assert!(fed.is_err(), "{written} bytes are in the host's memory");
}

#[tokio::test]
async fn input_of_a_command_that_was_dropped_is_not_kept_for_a_guest_that_never_ends_it() {
    let (guest, mut peer) = pair();
    let command = Command::new("cat").stdin_piped();
    let (running, _) = tokio::join!(guest.start(command), async {
        peer.greet(VERSION).await;
        peer.request().await.0
    });
    let mut running = running.unwrap();
    let mut stdin = running.take_stdin().unwrap();
    let content = vec![0; 4 * WINDOW as usize];
    let feed = tokio::spawn(async move { stdin.write_all(&content).await });
    tokio::task::yield_now().await;
    drop(running);
    let fed = tokio::time::timeout(TIMEOUT, feed).await;
    fed.expect("nobody waits for it").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_holds_although_no_place_gets_free() {
    let (guest, mut peer) = pair();
    peer.greet(VERSION).await;
    // Kept open, and nothing is answered.
    let _taken = tokio::spawn(async move { while peer.next().await.is_some() {} });
    let mut running = Vec::new();
    for _ in 0..MAX_REQUESTS {
        running.push(guest.start(["cmd"]).await.unwrap());
    }
    let limited = Command::new("cmd").timeout(Duration::from_secs(1));
    let given_up = tokio::time::timeout(Duration::from_secs(60), guest.exec(limited)).await;
    let error = given_up.expect("within its time limit").unwrap_err();
    assert!(matches!(error, GuestError::NoAnswer { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_answers_what_it_never_reads_is_asked_no_more_than_fits() {
    let (guest, mut peer) = pair();
    peer.greet(VERSION).await;
    let large = Command::new("cmd").arg("x".repeat(100 << 10));
    let mut asked = 0;
    let ask = async {
        for id in (0..2 * u32::try_from(MAX_REQUESTS).unwrap()).map(RequestId) {
            let mut running = guest.start(large.clone()).await.unwrap();
            asked += 1;
            let outcome = Outcome::Exited(0);
            peer.say(&ToHost::Done { id, outcome }).await;
            running.next().await.unwrap();
        }
    };
    let asked_all = tokio::time::timeout(Duration::from_secs(3600), ask).await;
    assert!(
        asked_all.is_err() && asked < 20,
        "{asked} requests are in memory"
    );
    let limited = large.timeout(Duration::from_secs(1));
    let error = guest.exec(limited).await.unwrap_err();
    assert!(matches!(error, GuestError::NoAnswer { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_nothing_that_was_cancelled_is_given_up_when_somebody_waits() {
    let (guest, mut peer) = pair();
    peer.greet(VERSION).await;
    let _taken = tokio::spawn(async move { while peer.next().await.is_some() {} });
    for _ in 0..MAX_REQUESTS {
        drop(guest.start(["cmd"]).await.unwrap());
    }
    let given_up = tokio::time::timeout(Duration::from_secs(60), guest.exec(["cmd"])).await;
    let error = given_up.expect("it does not wait for ever").unwrap_err();
    assert!(error.to_string().contains("did not end"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn commands_that_run_for_long_are_waited_for_although_some_were_cancelled() {
    let (guest, mut peer) = pair();
    peer.greet(VERSION).await;
    let mut running = Vec::new();
    for _ in 0..MAX_REQUESTS {
        running.push(guest.start(["cmd"]).await.unwrap());
    }
    drop(running.pop());
    let (id, _) = peer.request().await;
    let ends_late = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let outcome = Outcome::Exited(0);
        peer.say(&ToHost::Done { id, outcome }).await;
    };
    let (next, ()) = tokio::join!(guest.start(["cmd"]), ends_late);
    drop(next.expect("a place was free in the end"));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_small_chunks_is_read_at_a_pace() {
    let (guest, mut peer) = pair();
    let chunks = WINDOW;
    let flood = async {
        peer.greet(VERSION).await;
        let (id, _) = peer.request().await;
        let mut frames = Vec::new();
        for _ in 0..chunks {
            let (stream, bytes) = (Stream::Stdout, vec![7]);
            encode(&ToHost::Data { id, stream, bytes }, &mut frames).unwrap();
        }
        let outcome = Outcome::Exited(0);
        encode(&ToHost::Done { id, outcome }, &mut frames).unwrap();
        peer.stream.write_all(&frames).await.unwrap();
    };
    let start = tokio::time::Instant::now();
    let (output, ()) = tokio::join!(guest.exec(["cmd"]), flood);
    assert_eq!(output.unwrap().stdout.len(), chunks as usize);
    // The test's clock advances only while all tasks are idle.
    assert!(
        start.elapsed() > Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_guest_that_ran_out_of_memory_is_told() {
    let (guest, mut peer) = pair();
    let serve = async {
        peer.greet(VERSION).await;
        for told in [true, false] {
            let (id, _) = peer.request().await;
            if told {
                peer.say(&ToHost::OutOfMemory { id }).await;
            }
            let outcome = Outcome::Signaled(9);
            peer.say(&ToHost::Done { id, outcome }).await;
        }
    };
    let ask = async {
        for told in [true, false] {
            let output = guest.exec(["cmd"]).await.unwrap();
            assert_eq!(output.status, ExitStatus::Signal(9));
            assert_eq!(output.out_of_memory, told);
        }
    };
    tokio::join!(ask, serve);
}

#[tokio::test]
async fn a_signal_that_does_not_exist_is_refused_and_the_session_goes_on() {
    let (guest, mut peer) = pair();
    peer.greet(VERSION).await;
    let running = guest.start(["cmd"]).await.unwrap();
    for signal in [i32::MIN, -1, 0, 32, 64, 65, i32::MAX] {
        let error = running.signal(signal).unwrap_err();
        assert!(matches!(error, GuestError::Invalid(_)), "{error}");
    }
    running.signal(31).unwrap();
    let (id, _) = peer.request().await;
    assert_eq!(peer.next().await, Some(ToGuest::Signal { id, signal: 31 }));
}
