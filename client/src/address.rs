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
    /// The same, encrypted: `https://NAME`, by port 443, or `https://NAME:PORT`.
    Tls(String),
}

/// The port of HTTP over TLS.
const HTTPS_PORT: u16 = 443;

/// The error of a text that is no address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no daemon's address: unix:PATH, http://HOST:PORT or https://NAME[:PORT]")]
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
        if let Some(rest) = text.strip_prefix("https://") {
            let host = rest.strip_suffix('/').unwrap_or(rest);
            // An IPv6 address has colons of its own, in brackets.
            let with_port = match host.rsplit_once(':') {
                Some((_, port)) if !port.ends_with(']') => host.to_owned(),
                _ if host.is_empty() => return Err(bad()),
                _ => format!("{host}:{HTTPS_PORT}"),
            };
            return host_and_port(&with_port).map(Self::Tls).ok_or_else(bad);
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
            Self::Tls(host) => write!(f, "https://{host}"),
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
            ("https://a.b", Address::Tls("a.b:443".into())),
            ("https://a.b:8443/", Address::Tls("a.b:8443".into())),
            ("https://[::1]", Address::Tls("[::1]:443".into())),
            ("https://[::1]:8443", Address::Tls("[::1]:8443".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected));
        }
        for text in [
            "",
            "unix:",
            "localhost",
            "https://",
            "https://:1",
            "https://a:x",
            "https://a/x",
            "https://u@a",
            "http://a:1/x",
            "http://a",
            "a:99999",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
