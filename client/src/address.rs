//! Where a daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket: `unix:PATH`, or a path with a slash in it.
    Unix(PathBuf),
    /// A host name or address with a port: `http://HOST:PORT`, or `HOST:PORT`.
    Tcp(String),
}

/// The error of a text that is no address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no daemon's address: unix:PATH or http://HOST:PORT")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.is_empty() {
                true => Err(bad()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let host = rest.strip_suffix('/').unwrap_or(rest);
            return host_and_port(host).map(Self::Tcp).ok_or_else(bad);
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::Unix(text.into()));
        }
        host_and_port(text).map(Self::Tcp).ok_or_else(bad)
    }
}

fn host_and_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
    (is_host && port.parse::<u16>().is_ok()).then(|| text.to_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "http://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_a_host_with_a_port() {
        for (text, expected) in [
            ("unix:/run/i.sock", Address::Unix("/run/i.sock".into())),
            ("unix:///run/i.sock", Address::Unix("/run/i.sock".into())),
            ("./i.sock", Address::Unix("./i.sock".into())),
            (
                "http://127.0.0.1:3000/",
                Address::Tcp("127.0.0.1:3000".into()),
            ),
            ("[::1]:80", Address::Tcp("[::1]:80".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected));
        }
        for text in [
            "",
            "unix:",
            "localhost",
            "https://a:1",
            "http://a:1/x",
            "http://a",
            "a:99999",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
