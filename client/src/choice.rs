//! Which daemon is asked.

use std::str::FromStr;

use crate::address::{Address, BadAddress};

/// The variable that names a daemon where `--host` does not.
pub const HOST: &str = "IRONCLAW_HOST";

/// What stands for no daemon.
const NOBODY: &str = "none";

/// Which daemon is asked, if somebody says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostChoice {
    /// None: `none`.
    Nobody,
    /// The one that listens there.
    At(Address),
}

impl HostChoice {
    /// Returns what an option says, or else the environment.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn of(option: Option<Self>) -> Result<Option<Self>, BadAddress> {
        if option.is_some() {
            return Ok(option);
        }
        let named = std::env::var(HOST).ok().filter(|text| !text.is_empty());
        named.map(|text| text.parse()).transpose()
    }
}

impl FromStr for HostChoice {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        match text {
            NOBODY => Ok(Self::Nobody),
            address => address.parse().map(Self::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_no_daemon_and_anything_else_its_address() {
        assert_eq!("none".parse(), Ok(HostChoice::Nobody));
        let socket = Address::Unix("./none".into());
        assert_eq!("./none".parse(), Ok(HostChoice::At(socket)));
        assert!("None".parse::<HostChoice>().is_err());
        let named = Some(HostChoice::Nobody);
        assert_eq!(HostChoice::of(named.clone()), Ok(named));
    }
}
