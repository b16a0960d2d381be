//! Why a stream is no archive.

use ironclaw_protocol::limits::{MAX_ATTRIBUTES, MAX_PATH};
use thiserror::Error;

/// Limit of the extended headers of an entry, in bytes: attributes, two paths, and more than anybody
/// writes beside.
pub(crate) const MAX_EXTENDED: u64 = 256 * 1024;

/// A stream that is no archive, or one that nobody here reads.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("it is no tar archive: a header has a wrong checksum")]
    Checksum,
    #[error("it is compressed: send what is in it")]
    Compressed,
    #[error("a number in a header can't be read")]
    Number,
    #[error("the extended headers of a file are longer than {MAX_EXTENDED} bytes")]
    TooLong,
    #[error("an extended header can't be read")]
    Extended,
    #[error("a path is empty, holds a NUL byte, or is longer than {MAX_PATH} bytes")]
    Path,
    #[error("the attributes of a file are longer than {MAX_ATTRIBUTES} bytes")]
    Attributes,
    #[error("the map of a file with holes can't be read")]
    Map,
    #[error("it has an entry of a kind that is not known here: {0:?}")]
    Kind(char),
    #[error("it ends in the middle of a file")]
    Cut,
}
