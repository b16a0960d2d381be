//! What an option takes.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ironclaw_console::value::variable;
use ironclaw_orchestrator::vm::config::BackendChoice;

/// Of values that a shell can offer.
pub(super) fn backend() -> impl TypedValueParser<Value = BackendChoice> {
    PossibleValuesParser::new(BackendChoice::names()).try_map(|text| {
        let parsed = text.parse();
        parsed.map_err(|()| format!("it takes one of {}", BackendChoice::names().join(", ")))
    })
}

/// A size in whole MiB: `4GiB`, `512M`, or a number of MiB.
pub(super) fn mebibytes(text: &str) -> Result<u32, &'static str> {
    const EXPECTED: &str = "it takes a size such as 512MiB or 4GiB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| EXPECTED)?;
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "m" | "mib" => 1,
        "g" | "gib" => 1 << 10,
        "t" | "tib" => 1 << 20,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(factor).ok_or(EXPECTED)
}

pub(super) fn setting(text: OsString) -> Result<(String, OsString), &'static str> {
    let (key, value) = variable(text).map_err(|_| "it takes KEY=VALUE")?;
    let key = key.into_string().map_err(|_| "a key is in UTF-8")?;
    Ok((key, value))
}

/// A port of this host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) host: SocketAddr,
    pub(crate) guest: u16,
}

/// Reads `[ADDR:]PORT:PORT`; an IPv6 address is in brackets.
pub(super) fn port(text: &str) -> Result<Port, String> {
    let usage = || {
        "it takes [ADDR:]PORT:PORT, this host's and the guest's, like 8080:80 or 0.0.0.0:8080:80"
            .to_owned()
    };
    let (host, guest) = text.rsplit_once(':').ok_or_else(usage)?;
    let guest = guest.parse().ok().filter(|port| *port != 0);
    let (address, port) = host.rsplit_once(':').unwrap_or(("127.0.0.1", host));
    let is_v6 = address.starts_with('[') && address.ends_with(']');
    let address: IpAddr = address
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
        .filter(|address: &IpAddr| address.is_ipv6() == is_v6)
        .ok_or_else(usage)?;
    let port = port.parse().map_err(|_| usage())?;
    Ok(Port {
        host: SocketAddr::new(address, port),
        guest: guest.ok_or_else(usage)?,
    })
}

pub(super) fn absolute(text: OsString) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("it takes an absolute path")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_on_loopback_unless_an_address_is_named() {
        for (text, host, guest) in [
            ("8080:80", "127.0.0.1:8080", 80),
            ("0:80", "127.0.0.1:0", 80),
            ("0.0.0.0:8080:80", "0.0.0.0:8080", 80),
            ("[::1]:8080:80", "[::1]:8080", 80),
        ] {
            let host = host.parse().unwrap();
            assert_eq!(port(text), Ok(Port { host, guest }), "{text}");
        }
        for wrong in [
            "",
            "80",
            ":80",
            "80:",
            "8080:0",
            "70000:80",
            "80:70000",
            "::1:8080:80",
            "[::1]80:80",
            "localhost:80:80",
            "1.2.3.4:80",
            "[1.2.3.4]:80:80",
        ] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_has_a_unit_and_is_in_mebibytes() {
        let taken = [
            ("4GiB", 4096),
            ("512MiB", 512),
            ("512", 512),
            ("1 g", 1024),
            ("2T", 2 << 20),
        ];
        for (text, expected) in taken {
            assert_eq!(mebibytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "-1GiB", "4KB", "1.5GiB", "9999999T", "4GiB4"] {
            assert!(mebibytes(text).is_err(), "{text} is taken");
        }
    }
}
