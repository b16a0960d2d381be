//! The name of an image in a registry.

use std::fmt;

use ironclaw_store::Sha256Digest;

/// Longest name of a repository, in bytes, as registries have it.
const MAX_REPOSITORY: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;
/// Longest name of a host with its port, in bytes.
const MAX_REGISTRY: usize = 253 + 6;
/// The registry of names without one, as people call it.
const DOCKER_HUB: &str = "docker.io";
/// The tag of names without one.
const DEFAULT_TAG: &str = "latest";

/// An image in a registry: `127.0.0.1:5000/team/app:1.2`, `debian@sha256:...`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Sha256Digest>,
}

impl ImageReference {
    /// Parses a name as docker and podman read it: what has no registry is of Docker Hub, what has no tag
    /// is `latest`. Returns what is wrong with any other text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let path = name.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match name.get(path..).and_then(|last| last.find(':')) {
            Some(at) => (&name[..path + at], Some(&name[path + at + 1..])),
            None => (name, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(format!(
                "{tag:?} is no tag: it has 1 to {MAX_TAG} letters, digits, `_`, `.` and `-`"
            ));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
            Some(_) => (DOCKER_HUB, name.to_owned()),
            None => (DOCKER_HUB, format!("library/{name}")),
        };
        if !is_registry(registry) {
            return Err(format!(
                "{registry:?} is no HOST or HOST:PORT of a registry"
            ));
        }
        if !is_repository(&repository) {
            return Err(format!(
                "{repository:?} is no repository: it takes lower-case letters and digits, with `.`, `_`, `-` \
                 and `/` between them"
            ));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Returns the registry, as people call it: a host and perhaps a port.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the digest that it has to have.
    #[must_use]
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.digest
    }

    /// Returns its name among the manifests of the repository: the digest, where it has one.
    #[cfg(any(test, feature = "registry"))]
    pub(super) fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.tag, &self.digest) {
            (Some(tag), Some(digest)) => write!(f, ":{tag}@sha256:{digest}"),
            (None, Some(digest)) => write!(f, "@sha256:{digest}"),
            (Some(tag), None) => write!(f, ":{tag}"),
            (None, None) => write!(f, ":{DEFAULT_TAG}"),
        }
    }
}

fn parse_digest(text: &str) -> Result<Sha256Digest, String> {
    let hex = text.strip_prefix("sha256:");
    let digest = hex.and_then(|hex| hex.parse().ok());
    digest.ok_or_else(|| {
        format!("{text:?} is no digest: it takes sha256: and 64 lower-case hexadecimal digits")
    })
}

/// Whether the first part of a name is a registry, as docker tells it from a part of a repository.
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':'])
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (
                "ipv6",
                rest.strip_prefix(':').or((!rest.is_empty()).then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |label: &str| {
        let is_alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
        let inner = label.bytes().all(|it| is_alphanumeric(it) || it == b'-');
        let ends = [label.bytes().next(), label.bytes().last()];
        inner && ends.into_iter().all(|it| it.is_some_and(is_alphanumeric))
    };
    text.len() <= MAX_REGISTRY
        && host.split('.').all(is_name)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Each part has letters and digits, and one `.`, one or two `_` or any number of `-` between them.
fn is_repository(text: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &[u8]| {
        let is_separator =
            |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|it| *it == b'-');
        let runs = part.chunk_by(|a, b| is_plain(a) == is_plain(b));
        let sound = runs
            .filter(|run| !run.first().is_some_and(is_plain))
            .all(is_separator);
        sound && part.first().is_some_and(is_plain) && part.last().is_some_and(is_plain)
    };
    text.len() <= MAX_REPOSITORY && text.as_bytes().split(|it| *it == b'/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text
            .bytes()
            .all(|it| is_word(it) || matches!(it, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let hex = "0".repeat(64);
        for (text, expected, manifest) in [
            ("debian", "docker.io/library/debian:latest", "latest"),
            ("debian:12", "docker.io/library/debian:12", "12"),
            ("team/app", "docker.io/team/app:latest", "latest"),
            ("localhost/app:1", "localhost/app:1", "1"),
            ("localhost:5000/a/b__c-.", "", ""),
            (
                "127.0.0.1:5000/a/b__c--d",
                "127.0.0.1:5000/a/b__c--d:latest",
                "latest",
            ),
            (
                "[::1]:5000/app:V_1.2-3",
                "[::1]:5000/app:V_1.2-3",
                "V_1.2-3",
            ),
            ("ghcr.io/a/b.c", "ghcr.io/a/b.c:latest", "latest"),
            ("Debian", "", ""),
            ("", "", ""),
            ("a//b", "", ""),
            ("a/../b", "", ""),
            ("a/b:", "", ""),
            ("a/b:-x", "", ""),
            ("host:port/a", "", ""),
            ("host:0/a", "", ""),
            ("-host.example/a", "", ""),
            ("user@host.example/a", "", ""),
            ("host.example/a?b", "", ""),
            ("[::1/a", "", ""),
            ("[::1]x/a", "", ""),
            ("a@sha256:12", "", ""),
            ("a@sha512:00", "", ""),
        ] {
            match ImageReference::parse(text) {
                Ok(found) => {
                    assert_eq!(found.to_string(), expected, "{text}");
                    assert_eq!(found.manifest(), manifest, "{text}");
                    assert_eq!(
                        ImageReference::parse(expected).unwrap().to_string(),
                        expected
                    );
                }
                Err(reason) => assert_eq!("", expected, "{text}: {reason}"),
            }
        }
        let pinned = format!("127.0.0.1:5000/app:1@sha256:{hex}");
        let pinned = ImageReference::parse(&pinned).unwrap();
        assert_eq!(pinned.manifest(), format!("sha256:{hex}"));
        assert_eq!(pinned.digest().unwrap().to_string(), hex);
    }
}
