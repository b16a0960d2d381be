//! Tests cutting a stream into frames, with any content in any pieces.

use ironclaw_protocol::frame::{Decoder, Event, FrameError, MAGIC, decode, encode};
use ironclaw_protocol::limits::{MAX_CHUNK, MAX_FRAME, MAX_REQUEST_FRAME, MAX_RESYNC};
use ironclaw_protocol::message::{
    Exec, ExecId, Inherited, Request, RequestId, Stderr, Stream, ToGuest, ToHost,
};
use proptest::prelude::*;

fn arbitrary_message() -> impl Strategy<Value = ToGuest> {
    let id = any::<u32>().prop_map(RequestId);
    prop_oneof![
        (any::<u16>(), any::<u64>())
            .prop_map(|(version, session)| ToGuest::Hello { version, session }),
        (id.clone(), prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(id, bytes)| ToGuest::Data { id, bytes }),
        (id.clone(), any::<u64>()).prop_map(|(id, offset)| ToGuest::Taken {
            id,
            stream: Stream::Stderr,
            offset,
        }),
        (
            id,
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            prop::option::of("/.*")
        )
            .prop_map(|(id, argv, cwd)| ToGuest::Request {
                id,
                request: Request::Exec(Exec {
                    id: ExecId(u64::MAX),
                    keep: true,
                    user: None,
                    tag: "".into(),
                    terminal: None,
                    program: None,
                    inherited: Inherited::All,
                    argv: argv.into_iter().map(Into::into).collect(),
                    env: vec![("A".into(), "b".into())],
                    cwd: cwd.map(Into::into),
                    stdin: true,
                    stderr: Stderr::ToStdout,
                    timeout_ms: Some(5),
                }),
            }),
    ]
}

/// Returns everything that a decoder makes of `stream`, fed in pieces of `piece` bytes.
fn read_all(
    decoder: &mut Decoder,
    stream: &[u8],
    piece: usize,
) -> Result<Vec<ToGuest>, FrameError> {
    let mut messages = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        while let Some(event) = decoder.next()? {
            if let Event::Frame(payload) = event {
                messages.push(decode(payload)?);
            }
        }
    }
    Ok(messages)
}

proptest! {
    #[test]
    fn frames_round_trip_in_any_pieces(
        messages in prop::collection::vec(arbitrary_message(), 0..20),
        piece in 1_usize..2000,
    ) {
        let mut stream = MAGIC.to_vec();
        for message in &messages {
            encode(message, &mut stream).unwrap();
        }
        prop_assert_eq!(read_all(&mut Decoder::new(), &stream, piece).unwrap(), messages);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_pile_up(
        noise in prop::collection::vec(any::<u8>(), 0..5000),
        piece in 1_usize..700,
    ) {
        let mut decoder = Decoder::new();
        decoder.push(&MAGIC);
        for bytes in noise.chunks(piece) {
            decoder.push(bytes);
            loop {
                match decoder.next() {
                    Ok(Some(Event::Frame(payload))) => {
                        let _ = decode::<ToGuest>(payload);
                        let _ = decode::<ToHost>(payload);
                    }
                    Ok(Some(Event::Opened)) | Err(_) => {}
                    Ok(None) => break,
                }
            }
        }
    }

    #[test]
    fn a_session_is_found_behind_any_noise(
        noise in prop::collection::vec(any::<u8>(), 0..5000),
        message in arbitrary_message(),
    ) {
        let mut stream = noise;
        stream.extend_from_slice(&MAGIC);
        encode(&message, &mut stream).unwrap();
        // Noise that contains a magic may swallow the real one: that is what session numbers are
        // for.
        prop_assume!(stream.windows(MAGIC.len()).filter(|w| *w == MAGIC).count() == 1);
        prop_assert_eq!(read_all(&mut Decoder::new(), &stream, 64).unwrap(), vec![message]);
    }
}

#[test]
fn a_new_session_can_start_at_any_frame_boundary() {
    let hello = ToGuest::Hello {
        version: 1,
        session: 7,
    };
    let mut decoder = Decoder::new();
    let mut stream = MAGIC.to_vec();
    encode(&hello, &mut stream).unwrap();
    stream.extend_from_slice(&MAGIC);
    decoder.push(&stream);
    assert_eq!(decoder.next(), Ok(Some(Event::Opened)));
    assert!(matches!(decoder.next(), Ok(Some(Event::Frame(_)))));
    assert_eq!(decoder.next(), Ok(Some(Event::Opened)));
    assert_eq!(decoder.next(), Ok(None));
}

#[test]
fn an_oversized_frame_is_refused_by_its_prefix_alone() {
    let mut decoder = Decoder::new();
    decoder.push(&MAGIC);
    decoder.push(&u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes());
    assert_eq!(decoder.next(), Ok(Some(Event::Opened)));
    assert_eq!(
        decoder.next(),
        Err(FrameError::TooLong {
            length: MAX_FRAME + 1,
            limit: MAX_FRAME
        })
    );
    decoder.push(&MAGIC);
    assert_eq!(
        decoder.next(),
        Ok(Some(Event::Opened)),
        "a new session starts after the error"
    );
}

#[test]
fn endless_noise_is_an_error_and_not_a_wait() {
    let mut decoder = Decoder::new();
    let noise = vec![0_u8; MAX_RESYNC / 4];
    let mut errors = 0;
    for _ in 0..5 {
        decoder.push(&noise);
        errors += usize::from(decoder.next() == Err(FrameError::NoSession));
    }
    assert_eq!(errors, 1);
}

#[test]
fn an_oversized_message_is_refused_and_leaves_the_output_as_it_was() {
    let mut out = vec![1, 2, 3];
    let message = ToHost::Data {
        id: RequestId(1),
        stream: Stream::Stdout,
        bytes: vec![0; MAX_FRAME],
    };
    assert!(matches!(
        encode(&message, &mut out),
        Err(FrameError::TooLong { .. })
    ));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn trailing_bytes_in_a_frame_are_refused() {
    let mut out = Vec::new();
    encode(&ToGuest::Eof { id: RequestId(3) }, &mut out).unwrap();
    out.push(0);
    assert_eq!(decode::<ToGuest>(&out[4..]), Err(FrameError::Malformed));
}

#[test]
fn the_longest_chunk_fits_into_a_frame() {
    let message = ToGuest::Data {
        id: RequestId(u32::MAX),
        bytes: vec![7; MAX_CHUNK],
    };
    message.validate().unwrap();
    encode(&message, &mut Vec::new()).unwrap();
}

#[test]
fn a_host_may_send_longer_frames_than_a_guest() {
    let announce = |length: usize| {
        let mut stream = MAGIC.to_vec();
        stream.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        stream
    };
    let mut guest = Decoder::of_requests();
    guest.push(&announce(MAX_REQUEST_FRAME));
    assert_eq!(guest.next(), Ok(Some(Event::Opened)));
    assert_eq!(guest.next(), Ok(None), "it waits for the payload");
    guest.push(&vec![7; MAX_REQUEST_FRAME]);
    let frame = guest.next();
    assert!(matches!(frame, Ok(Some(Event::Frame(payload))) if payload.len() == MAX_REQUEST_FRAME));

    for (mut decoder, limit) in [
        (Decoder::new(), MAX_FRAME),
        (Decoder::of_requests(), MAX_REQUEST_FRAME),
    ] {
        decoder.push(&announce(limit + 1));
        assert_eq!(decoder.next(), Ok(Some(Event::Opened)));
        let length = limit + 1;
        assert_eq!(decoder.next(), Err(FrameError::TooLong { length, limit }));
    }
}
