//! Connects to a port of the guest, through the socket that Firecracker creates for its vsock
//! device: `CONNECT <port>\n`, answered by `OK <host's port>\n` once a program in the guest has
//! accepted (Firecracker's docs/vsock.md).

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::chroot::Chroot;

/// The longest answer is `OK 4294967295\n`.
const MAX_ANSWER: usize = 16;

/// Connects to `port` of the guest behind the socket `name`. Returns `None` if nothing in the guest
/// listens there, or its kernel is not up.
///
/// # Errors
/// The socket does not exist, or the answer violates the protocol.
pub(super) async fn connect(
    chroot: &Chroot,
    name: &str,
    port: u32,
) -> io::Result<Option<UnixStream>> {
    let mut stream = chroot.connect(name).await?;
    let sent = stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await;
    if let Err(error) = sent {
        return refusal(error);
    }
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    // Reads single bytes: everything behind the line belongs to the guest.
    while answer.last() != Some(&b'\n') {
        if answer.len() == MAX_ANSWER {
            return Err(out_of_protocol(&answer));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) => return refusal(error),
        }
    }
    let accepted = answer
        .strip_prefix(b"OK ")
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit));
    if accepted {
        Ok(Some(stream))
    } else {
        Err(out_of_protocol(&answer))
    }
}

/// Firecracker closes the connection if the guest does not accept.
fn refusal<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => Ok(None),
        _ => Err(error),
    }
}

fn out_of_protocol(answer: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the answer to CONNECT was {:?}",
            String::from_utf8_lossy(answer)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::chroot::Sees;
    use super::*;
    use proptest::prelude::*;
    use tokio::net::UnixListener;

    /// Calls `connect` with a peer that answers `answer` and hangs up; returns the bytes readable
    /// afterwards.
    async fn against(answer: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock");
        let chroot = Chroot::open(directory.path(), Sees::Host).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let peer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 13];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 5252\n");
            // A refusal may end the connection before everything is written.
            let _ = stream.write_all(answer).await;
        };
        let (result, ()) = tokio::join!(connect(&chroot, "vsock", 5252), peer);
        match result? {
            None => Ok(None),
            Some(mut stream) => {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await?;
                Ok(Some(rest))
            }
        }
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_belong_to_the_guest() {
        let rest = against(b"OK 1073741824\nhello").await.unwrap().unwrap();
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn a_hang_up_means_that_nobody_listens() {
        assert!(against(b"").await.unwrap().is_none());
        assert!(against(b"OK 1").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn another_answer_is_an_error_and_an_endless_one_is_not_read() {
        for answer in [&b"NO 1\n"[..], b"OK \n", b"OK x\n", &[b'9'; 4096]] {
            let error = against(answer).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{answer:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_answer_makes_it_panic_or_read_past_its_bound(
            answer in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            if let Ok(Some(rest)) = runtime.block_on(against(&answer)) {
                prop_assert!(answer.starts_with(b"OK "));
                prop_assert!(answer.ends_with(&rest));
            }
        }
    }
}
