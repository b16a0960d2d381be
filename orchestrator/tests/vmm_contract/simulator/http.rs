//! The subset of HTTP that Firecracker's server has.

use super::Fault;

/// The longest request that Firecracker accepts (its `--http-api-max-payload-size`).
const MAX_REQUEST: usize = 51_200;

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

/// Takes the first request out of `bytes`; `None` if it is incomplete.
pub(super) fn take(bytes: &mut Vec<u8>) -> Result<Option<Request>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_REQUEST => return Ok(None),
        _ => return Err("malformed request"),
    };
    let length = parsed
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |header| {
            let text = std::str::from_utf8(header.value).map_err(|_| "malformed length")?;
            text.parse::<usize>().map_err(|_| "malformed length")
        })?;
    if length > MAX_REQUEST {
        return Err("payload too large");
    }
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else {
        return Err("malformed request");
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    let Some(body) = bytes.get(head..head + length).map(<[u8]>::to_vec) else {
        return Ok(None);
    };
    bytes.drain(..head + length);
    Ok(Some(Request { method, path, body }))
}

/// The answer of the API to a request.
pub(super) enum Answer {
    /// 204.
    Done,
    /// 200 with a body.
    Found(serde_json::Value),
    /// 400 with Firecracker's message.
    Fault(String),
}

impl Answer {
    /// Returns the bytes to send.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (status, body) = match self {
            Self::Done => ("204 No Content", None),
            Self::Found(value) => ("200 OK", Some(value.to_string())),
            Self::Fault(message) => (
                "400 Bad Request",
                Some(serde_json::json!({ "fault_message": message }).to_string()),
            ),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive");
        match body {
            None => format!("{head}\r\n\r\n"),
            Some(body) => {
                let length = body.len();
                format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            }
        }
        .into_bytes()
    }

    /// Returns the bytes to send under a fault.
    pub(super) fn broken(&self, fault: &Fault) -> Vec<u8> {
        match fault {
            Fault::Refuse(message) => Self::Fault(message.clone()).bytes(),
            Fault::Truncate => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"half\":".to_vec()
            }
            Fault::Garbage => b"\xff\xfe this is not HTTP\r\n\r\n".to_vec(),
            Fault::Endless => {
                let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n".to_vec();
                bytes.resize(bytes.len() + (8 << 20), b' ');
                bytes
            }
            _ => self.bytes(),
        }
    }
}
