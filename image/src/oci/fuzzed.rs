//! Documents of arbitrary bytes.

use super::{config, docker_archive, manifest};

/// Parses a config, a manifest and an index, and the list of an archive.
pub fn fuzz(bytes: &[u8]) {
    config::fuzz(bytes);
    manifest::fuzz(bytes);
    docker_archive::fuzz(bytes);
}
