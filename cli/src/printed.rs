//! The output of a guest's command in JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

/// A command's output. JSON has text only: if a stream is not UTF-8, its text has U+FFFD in place
/// of invalid bytes, and its bytes are added in base64 (RFC 4648).
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Output {
    stdout: String,
    stdout_base64: Option<String>,
    stderr: String,
    stderr_base64: Option<String>,
}

impl Output {
    pub(crate) fn new(stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        let ((stdout, stdout_base64), (stderr, stderr_base64)) = (told(stdout), told(stderr));
        Self {
            stdout,
            stdout_base64,
            stderr,
            stderr_base64,
        }
    }
}

fn told(bytes: Vec<u8>) -> (String, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let bytes = error.as_bytes();
            let text = String::from_utf8_lossy(bytes).into_owned();
            (text, Some(BASE64_STANDARD.encode(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_is_no_text_is_told_as_it_is_too() {
        let output = Output::new(b"text".to_vec(), b"a\xffb".to_vec());
        let expected = Output {
            stdout: "text".to_owned(),
            stdout_base64: None,
            stderr: "a\u{fffd}b".to_owned(),
            stderr_base64: Some("Yf9i".to_owned()),
        };
        assert_eq!(output, expected);
    }
}
