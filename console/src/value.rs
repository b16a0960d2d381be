//! What options of several commands take.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::str::FromStr;
use std::time::Duration;

/// Longest time limit of a command.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads the time limit of a command, such as `90s`.
///
/// # Errors
/// What it takes, if it is another text.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&time) {
        Ok(time)
    } else {
        Err("it takes 1ms to 30days".to_owned())
    }
}

/// Reads a variable and its value.
///
/// # Errors
/// What it takes, if it is another text.
pub fn variable(text: OsString) -> Result<(OsString, OsString), &'static str> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => {
            let part = |bytes| OsStr::from_bytes(bytes).to_owned();
            Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
        }
        _ => Err("it takes NAME=VALUE"),
    }
}

/// A port of this host that leads to one of a guest: `[[ADDR:]PORT:]PORT`. Without one of the host's, it is that of
/// the guest, on 127.0.0.1; an IPv6 address is in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Where this host listens; port 0 is any that is free.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// The error of a text that names no ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPort {
    /// It has another form.
    #[error(
        "it takes [[ADDR:]PORT:]PORT, this host's and the guest's, like 80, 8080:80 or 0.0.0.0:8080:80"
    )]
    Form,
    /// The guest's is 0.
    #[error("no program listens on port 0 of the guest")]
    Zero,
}

impl FromStr for Port {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Self, BadPort> {
        // Numbers are taken with a sign otherwise.
        if text.contains('+') {
            return Err(BadPort::Form);
        }
        let (host, guest) = text.rsplit_once(':').unwrap_or((text, text));
        let guest = guest.parse().map_err(|_| BadPort::Form)?;
        let host = match host.parse() {
            Ok(port) => (Ipv4Addr::LOCALHOST, port).into(),
            Err(_) => host.parse().map_err(|_| BadPort::Form)?,
        };
        match guest {
            0 => Err(BadPort::Zero),
            guest => Ok(Self { host, guest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_on_loopback_and_the_guests_unless_others_are_named() {
        for (text, host, guest) in [
            ("80", "127.0.0.1:80", 80),
            ("8080:80", "127.0.0.1:8080", 80),
            ("0:80", "127.0.0.1:0", 80),
            ("0.0.0.0:8080:80", "0.0.0.0:8080", 80),
            ("[::1]:8080:80", "[::1]:8080", 80),
        ] {
            let host = host.parse().unwrap();
            assert_eq!(text.parse(), Ok(Port { host, guest }), "{text}");
        }
        for wrong in [
            "",
            ":",
            ":80",
            "80:",
            "70000",
            "70000:80",
            "80:70000",
            "+80:80",
            "80:+80",
            "-1:80",
            " 80",
            "::1:8080:80",
            "[::1]80:80",
            "[::1]:80",
            "localhost:80:80",
            "1.2.3.4:80",
            "1.2.3.4::80",
            "[1.2.3.4]:80:80",
            "80/tcp",
        ] {
            assert_eq!(wrong.parse::<Port>(), Err(BadPort::Form), "{wrong}");
        }
        for zero in ["0", "8080:0", "0:0"] {
            assert_eq!(zero.parse::<Port>(), Err(BadPort::Zero), "{zero}");
        }
    }
}
