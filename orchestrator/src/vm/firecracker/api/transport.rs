//! HTTP/1.1 over the API socket, within bounds.
//!
//! A resume is a round trip on this connection and the greater part of a warm spawn, and its code
//! last ran long ago, so its pages are cold: the amount of code matters more than its speed. Hence
//! no general HTTP client, only the subset of Firecracker's server (its micro_http): one request at
//! a time, and answers of a known length. `httparse` parses them.

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{ApiError, Method};
use crate::untrusted;

/// Limits of an answer's headers, in bytes and in number.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;
/// Limit of an answer's body in bytes: `/vm/config`, the longest, has some kilobytes.
const MAX_BODY: usize = 1 << 20;
/// The size of a read: most answers fit.
const READ_SIZE: usize = 1024;

/// A keep-alive connection.
#[derive(Debug)]
pub(super) struct Transport {
    stream: UnixStream,
    /// Whether an abandoned request has an answer outstanding, which would be taken for that of the
    /// next request.
    answer_due: bool,
}

/// The body of all of Firecracker's errors.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

/// The parsed head of an answer: its status, and the place of its body.
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
}

impl Transport {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            answer_due: false,
        }
    }

    /// Sends a request and returns the body of a successful answer. After anything but a refusal,
    /// or if cancelled, the connection is unusable.
    pub(super) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, ApiError> {
        if self.answer_due {
            return Err(ApiError::Closed("a request was given up".to_owned()));
        }
        let malformed = |detail: String| ApiError::Malformed {
            request: format!("{method} {path}"),
            detail,
        };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed("its path is none".to_owned()));
        }
        self.answer_due = true;
        self.stream
            .write_all(&request(method, path, body))
            .await
            .map_err(closed)?;
        let mut read = Vec::with_capacity(READ_SIZE);
        let head = loop {
            self.read_more(&mut read).await?;
            if let Some(head) = head(&read).map_err(malformed)? {
                break head;
            }
            if read.len() > MAX_HEAD {
                return Err(malformed(format!("headers of more than {MAX_HEAD} bytes")));
            }
        };
        if head.body_bytes > MAX_BODY {
            return Err(malformed(format!("a body of more than {MAX_BODY} bytes")));
        }
        let end = head.bytes + head.body_bytes;
        while read.len() < end {
            self.read_more(&mut read).await?;
        }
        if read.len() > end {
            return Err(malformed("there is something behind it".to_owned()));
        }
        self.answer_due = false;
        let body = read.split_off(head.bytes);
        if (200..300).contains(&head.status) {
            return Ok(body);
        }
        let message = match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => fault.fault_message,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        Err(ApiError::Refused {
            request: format!("{method} {path}"),
            status: head.status,
            message: untrusted::message(&message),
        })
    }

    async fn read_more(&mut self, read: &mut Vec<u8>) -> Result<(), ApiError> {
        read.reserve(READ_SIZE);
        match self.stream.read_buf(read).await {
            Ok(0) => Err(ApiError::Closed("it ended before the answer".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(closed(error)),
        }
    }
}

fn request(method: Method, path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(READ_SIZE);
    request.extend_from_slice(method.name().as_bytes());
    request.push(b' ');
    request.extend_from_slice(path.as_bytes());
    request.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
    if !body.is_empty() {
        let length = body.len();
        let headers = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        request.extend_from_slice(headers.as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    request
}

/// Parses the head of an answer; `None` while it is incomplete.
fn head(read: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(read).map_err(|error| error.to_string())?;
    let httparse::Status::Complete(bytes) = parsed else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    if !(200..1000).contains(&status) {
        // An interim answer: the final one is yet to come, and would be taken for that of the next
        // request.
        return Err(format!("status {status} is no answer"));
    }
    let mut body_bytes = None;
    for header in response.headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("its length is not told beforehand".to_owned());
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value).ok();
            let length = length.and_then(|length| length.trim().parse().ok());
            let length = length.ok_or("its length is no number")?;
            if body_bytes
                .replace(length)
                .is_some_and(|other| other != length)
            {
                return Err("it has two lengths".to_owned());
            }
        }
    }
    Ok(Some(Head {
        status,
        bytes,
        body_bytes: body_bytes.unwrap_or(0),
    }))
}

fn closed(error: std::io::Error) -> ApiError {
    ApiError::Closed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PUT: Method = Method::Put;

    /// Returns the result of an exchange with a peer that sends `answer` in two pieces and hangs
    /// up.
    async fn against(answer: &[u8], cut: usize) -> Result<Vec<u8>, ApiError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut transport = Transport::new(ours);
        let (first, second) = answer.split_at(cut.min(answer.len()));
        let peer = async {
            let mut request = [0; 256];
            let count = theirs.read(&mut request).await.unwrap();
            assert!(count > 0);
            theirs.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            // The other side may have closed the connection already.
            let _ = theirs.write_all(second).await;
            drop(theirs);
        };
        let (answer, ()) = tokio::join!(transport.exchange(PUT, "/actions", b"{}"), peer);
        answer
    }

    #[test]
    fn a_request_is_what_firecracker_reads() {
        let text = String::from_utf8(request(PUT, "/actions", b"{\"a\":1}")).unwrap();
        assert_eq!(
            text,
            "PUT /actions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
        );
        let text = String::from_utf8(request(Method::Get, "/version", b"")).unwrap();
        assert!(text.ends_with("application/json\r\n\r\n") && !text.contains("Length"));
    }

    #[tokio::test]
    async fn an_answer_is_whole_wherever_it_is_cut() {
        let answer =
            b"HTTP/1.1 200 \r\nServer: Firecracker API\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        for cut in 0..answer.len() {
            assert_eq!(against(answer, cut).await.unwrap(), b"{\"a\":1}");
        }
        let nothing = against(b"HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n", 9).await;
        assert_eq!(nothing.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_refusal_keeps_firecrackers_words_without_control_characters() {
        let body = r#"{"fault_message":"no\u001b[2Jt"}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 400 \r\nContent-Length: {length}\r\n\r\n{body}");
        let error = against(answer.as_bytes(), 5).await.unwrap_err();
        let ApiError::Refused {
            status: 400,
            message,
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(message, "no[2Jt");
    }

    #[tokio::test]
    async fn a_malformed_answer_is_an_error_of_its_own_kind() {
        for (answer, malformed) in [
            (&b"garbage\r\n\r\n"[..], true),
            (b"HTTP/1.1 200 \r\nContent-Length: x\r\n\r\n", true),
            (
                b"HTTP/1.1 200 \r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                true,
            ),
            (b"HTTP/1.1 200 \r\nContent-Length: 9999999999\r\n\r\n", true),
            (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", true),
            (b"HTTP/1.1 204 \r\n\r\nmore", true),
            (b"HTTP/1.1 100 \r\n\r\n", true),
            (&[b'a'; MAX_HEAD + READ_SIZE], true),
            (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nab", false),
            (b"HTTP/1.1 2", false),
            (b"", false),
        ] {
            let error = against(answer, answer.len()).await.unwrap_err();
            let told = String::from_utf8_lossy(&answer[..answer.len().min(60)]);
            assert_eq!(
                matches!(error, ApiError::Malformed { .. }),
                malformed,
                "{told}: {error}"
            );
            assert_eq!(
                matches!(error, ApiError::Closed(_)),
                !malformed,
                "{told}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_request_that_was_given_up_ends_the_connection() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut transport = Transport::new(ours);
        let brief = std::time::Duration::from_millis(1);
        let given_up = transport.exchange(PUT, "/actions", b"{}");
        assert!(tokio::time::timeout(brief, given_up).await.is_err());
        let error = transport
            .exchange(PUT, "/actions", b"{}")
            .await
            .unwrap_err();
        assert!(matches!(error, ApiError::Closed(_)), "{error}");
    }

    #[tokio::test]
    async fn a_path_can_not_smuggle_another_request() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut transport = Transport::new(ours);
        let error = transport
            .exchange(PUT, "/a HTTP/1.1\r\n\r\nPUT /b", b"{}")
            .await;
        assert!(matches!(error.unwrap_err(), ApiError::Malformed { .. }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_that_is_answered_makes_it_panic_or_wait(
            start in prop_oneof![Just(&b""[..]), Just(&b"HTTP/1.1 200 \r\nContent-Length: "[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..200usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let answer = [start, &rest].concat();
            // Ends because the peer hangs up.
            let _ = runtime.block_on(against(&answer, cut));
        }
    }
}
