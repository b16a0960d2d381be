//! The id of a sandbox, as clients know it.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Characters of an id: letters and digits that a host name has, too.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Number of drawn characters: 100 bits.
const DRAWN: usize = 20;

/// The id of a sandbox: `i` and 20 lower-case letters and digits, so that it fits into a host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SandboxId(String);

impl SandboxId {
    /// Draws an id that no other sandbox has.
    ///
    /// # Errors
    /// If the kernel gives no random numbers.
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        draw_text('i').map(Self)
    }

    /// Returns its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Draws the text of an id, which begins with `prefix`.
///
/// # Errors
/// If the kernel gives no random numbers.
pub(crate) fn draw_text(prefix: char) -> Result<String, getrandom::Error> {
    let mut bytes = [0; DRAWN];
    getrandom::fill(&mut bytes)?;
    let letters = bytes.iter().map(|byte| {
        let index = usize::from(byte % 32);
        char::from(ALPHABET[index])
    });
    Ok(std::iter::once(prefix).chain(letters).collect())
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error of a text that is no id of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a sandbox is `i` and 20 lower-case letters and digits")]
pub struct ParseSandboxIdError;

impl FromStr for SandboxId {
    type Err = ParseSandboxIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = text.bytes();
        let fits = text.len() == DRAWN + 1
            && bytes.next() == Some(b'i')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseSandboxIdError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = SandboxId::draw().unwrap();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for text in [
            "",
            "i",
            "iABCDEFGHIJKLMNOPQRST",
            "j2345678901234567890a",
            "../../../../etc/pass",
        ] {
            assert!(text.parse::<SandboxId>().is_err(), "{text}");
        }
        assert!(format!("{id}x").parse::<SandboxId>().is_err());
    }
}
