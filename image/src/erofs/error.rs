//! Errors of writing an image.

use std::io;

use thiserror::Error;

/// The reason why an image could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ErofsError {
    /// A file has more extended attributes than the format can hold.
    #[error("{path} has too many extended attributes")]
    Xattrs {
        /// Its path in the image.
        path: String,
    },
    /// The files take more than an image can hold.
    #[error("the files take more than an image can hold (16 TiB)")]
    TooLarge,
    /// The image takes more than it may.
    #[error("the image takes {} MiB, and may take {} at most: see `root_disk_mib`", bytes.div_ceil(1 << 20), limit >> 20)]
    OverLimit {
        /// The size of the image in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content of a file can't be read.
    #[error("can't read the content of {path}: {source}")]
    Read {
        /// Its path in the image.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// The image can't be written.
    #[error("can't write the image: {0}")]
    Write(#[source] io::Error),
}
