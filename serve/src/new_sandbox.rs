//! What a client asks of a new sandbox, and the bounds of that, whichever API it speaks.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

use crate::record::Expiry;

/// Bounds of a lifetime: a day at most.
const MAX_LIFETIME: u64 = 24 * 60 * 60;

/// Limit of a sandbox's metadata and variables together, in bytes.
const MAX_TEXTS: usize = 256 * 1024;

/// Limit of a sandbox's name, in bytes.
const MAX_NAME: usize = 64;

/// The reason why no sandbox is made of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidSandbox {
    /// So many seconds are more than it may live.
    #[error("a lifetime of {0} s is longer than {MAX_LIFETIME} s")]
    Lifetime(u64),
    /// Its metadata and variables have so many bytes.
    #[error("metadata and variables have {0} bytes, and may have {MAX_TEXTS}")]
    Texts(usize),
    /// No variable has this name, or its value.
    #[error("{0:?} is no variable")]
    Variable(String),
    /// Its name is empty, too long, or nothing to be printed.
    #[error("a name has 1 to {MAX_NAME} bytes of printable text")]
    Name,
    /// It would be killed at once.
    #[error("a limit of idle time is at least 1 s")]
    IdleLimit,
}

/// What a client asks of a new sandbox.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewSandbox {
    /// The name of its template.
    pub template: String,
    /// Time until its deadline.
    pub lifetime: Duration,
    /// What becomes of it then.
    pub expiry: Expiry,
    /// Whether a request to it resumes it when it is paused.
    pub resume_on_use: bool,
    /// What its client wants to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Variables of each of its commands.
    pub env: BTreeMap<String, String>,
    /// Whether its ports ask for a token.
    pub private_ports: bool,
    /// The host name that programs on its ports are told, in which `${PORT}` stands for the port.
    pub told_host: Option<String>,
    /// What its maker sends again with the same request: the same sandbox is the answer then.
    pub idempotency_key: Option<String>,
    /// The hash of what its maker asked for by that key: another request by it is refused then.
    pub request_hash: Option<String>,
    /// Its name, for people and lists.
    pub name: Option<String>,
    /// The user that its commands run as; `None`: what its template has.
    pub user: Option<String>,
    /// Time without a request to its guest after which it is killed.
    pub idle_limit: Option<Duration>,
}

impl NewSandbox {
    /// Asks for a sandbox of a template with a lifetime, which is killed after it.
    #[must_use]
    pub fn of(template: impl Into<String>, lifetime: Duration) -> Self {
        Self {
            template: template.into(),
            lifetime,
            expiry: Expiry::Kill,
            resume_on_use: false,
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
            private_ports: false,
            told_host: None,
            idempotency_key: None,
            request_hash: None,
            name: None,
            user: None,
            idle_limit: None,
        }
    }

    /// Refuses what is out of its bounds.
    pub(crate) fn check(&self) -> Result<(), InvalidSandbox> {
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control))
        {
            return Err(InvalidSandbox::Name);
        }
        if self.idle_limit == Some(Duration::ZERO) {
            return Err(InvalidSandbox::IdleLimit);
        }
        let texts = self.metadata.iter().chain(&self.env);
        let bytes = texts.map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_TEXTS {
            return Err(InvalidSandbox::Texts(bytes));
        }
        check_env(&self.env)
    }
}

/// Refuses what no variable has.
pub(crate) fn check_env(env: &BTreeMap<String, String>) -> Result<(), InvalidSandbox> {
    let bad = |(name, value): &(&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    match env.iter().find(bad) {
        Some((name, _)) => Err(InvalidSandbox::Variable(name.clone())),
        None => Ok(()),
    }
}

/// Returns the lifetime that a number of seconds stands for.
pub(crate) fn lifetime(
    seconds: Option<u64>,
    default: Duration,
) -> Result<Duration, InvalidSandbox> {
    match seconds {
        None => Ok(default),
        Some(seconds) if seconds <= MAX_LIFETIME => Ok(Duration::from_secs(seconds)),
        Some(seconds) => Err(InvalidSandbox::Lifetime(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(change: impl FnOnce(&mut NewSandbox)) -> Result<(), InvalidSandbox> {
        let mut new = NewSandbox::of("base", Duration::from_secs(1));
        change(&mut new);
        new.check()
    }

    fn texts<const N: usize>(texts: [(&str, &str); N]) -> BTreeMap<String, String> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        texts.map(owned).into()
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(new(|_| ()), Ok(()));
        let long = "x".repeat(MAX_TEXTS);
        let most = "x".repeat(MAX_TEXTS - 1);
        new(|new| new.metadata = texts([("a", &most)])).unwrap();
        assert_eq!(
            new(|new| new.metadata = texts([("a", &long)])),
            Err(InvalidSandbox::Texts(MAX_TEXTS + 1))
        );
        for (name, value) in [("", "1"), ("A=B", "1"), ("A\0", "1"), ("A", "\0")] {
            assert_eq!(
                new(|new| new.env = texts([(name, value)])),
                Err(InvalidSandbox::Variable(name.to_owned()))
            );
        }
        for name in ["", "a\nb", &"x".repeat(MAX_NAME + 1)] {
            let named = |new: &mut NewSandbox| new.name = Some(name.to_owned());
            assert_eq!(new(named), Err(InvalidSandbox::Name));
        }
        assert_eq!(
            new(|new| new.idle_limit = Some(Duration::ZERO)),
            Err(InvalidSandbox::IdleLimit)
        );
        let default = Duration::from_secs(7);
        assert_eq!(lifetime(None, default), Ok(default));
        assert_eq!(lifetime(Some(1), default), Ok(Duration::from_secs(1)));
        assert_eq!(
            lifetime(Some(86_401), default),
            Err(InvalidSandbox::Lifetime(86_401))
        );
    }
}
