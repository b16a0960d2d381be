//! Pages of the list of sandboxes.

use std::time::{Duration, UNIX_EPOCH};

use crate::sandbox::Sandbox;

/// The place of a sandbox in the list: when it was started, in microseconds since 1970, and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u128, String);

impl Place {
    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        let since = sandbox.record.started.duration_since(UNIX_EPOCH);
        let since = since.unwrap_or(Duration::ZERO);
        Self(since.as_micros(), sandbox.id.to_string())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (since, id) = text.split_once('-')?;
        Some(Self(since.parse().ok()?, id.to_owned()))
    }

    pub(crate) fn token(&self) -> String {
        format!("{}-{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = Place(12, "iabc".to_owned());
        assert_eq!(Place::parse(&place.token()), Some(place));
    }
}
