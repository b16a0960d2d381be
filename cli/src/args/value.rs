//! What an option takes.

use std::ffi::OsString;
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
