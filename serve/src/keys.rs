//! API keys: who has one may use the daemon. Only their hashes are kept.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use crate::database::{Database, DatabaseError};
use crate::secret::{self, Secret};

/// Begins every key: E2B's older SDKs refuse others before they send them.
const PREFIX: &str = "e2b_";

/// Characters of a key that are kept, so that people know theirs.
const HINT: usize = PREFIX.len() + 4;

/// Limit of a key's name, in bytes.
const MAX_NAME: usize = 64;

/// The API keys of a daemon.
#[derive(Debug, Clone)]
pub struct Keys {
    database: Database,
}

/// A new key, which is told once.
pub struct Key {
    /// The key's text, to be given to a client.
    pub text: String,
    /// What is kept of it.
    pub info: KeyInfo,
}

/// Without the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyInfo {
    /// Its name, which no other key has.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// The error of a name that no key can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKeyName {
    /// It is none.
    #[error("the name of a key has 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`")]
    Invalid,
    /// Another key has it.
    #[error("there is a key {0:?} already")]
    Taken(String),
}

/// The error of a key that can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewKeyError {
    /// Its name.
    #[error(transparent)]
    Name(#[from] BadKeyName),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(String),
}

impl Keys {
    /// Returns the keys in a database.
    #[must_use]
    pub fn of(database: &Database) -> Self {
        Self {
            database: database.clone(),
        }
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`NewKeyError`].
    pub fn create(&self, name: &str) -> Result<Key, NewKeyError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
            return Err(BadKeyName::Invalid.into());
        }
        let secret = Secret::draw().map_err(|error| NewKeyError::Random(error.to_string()))?;
        let text = format!("{PREFIX}{}", secret.reveal());
        let info = KeyInfo {
            name: name.to_owned(),
            hint: text[..HINT].to_owned(),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_secs(),
        };
        let hash = secret::hash(&text);
        let added = self.database.run("add a key to", |connection| {
            connection.execute(
                "INSERT INTO key (name, hash, hint, created) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO NOTHING",
                params![info.name, hash, info.hint, info.created.cast_signed()],
            )
        })?;
        match added {
            0 => Err(BadKeyName::Taken(name.to_owned()).into()),
            _ => Ok(Key { text, info }),
        }
    }

    /// Lists the keys, sorted by name.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn list(&self) -> Result<Vec<KeyInfo>, DatabaseError> {
        self.database.look_up("list the keys of", |connection| {
            let mut query =
                connection.prepare("SELECT name, hint, created FROM key ORDER BY name")?;
            let rows = query.query_map([], |row| {
                Ok(KeyInfo {
                    name: row.get(0)?,
                    hint: row.get(1)?,
                    created: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            })?;
            rows.collect()
        })
    }

    /// Revokes a key: the next request with it is refused. Returns whether there was one of that name.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn revoke(&self, name: &str) -> Result<bool, DatabaseError> {
        let removed = self.database.run("remove a key from", |connection| {
            connection.execute("DELETE FROM key WHERE name = ?1", [name])
        })?;
        Ok(removed > 0)
    }

    /// Returns the name of the key that a client presents; `None` if it is none.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn holder(&self, presented: &str) -> Result<Option<String>, DatabaseError> {
        let hash = secret::hash(presented);
        self.database.look_up("look for a key in", |connection| {
            let mut query = connection.prepare_cached("SELECT name FROM key WHERE hash = ?1")?;
            query.query_row([hash], |row| row.get(0)).optional()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_until_it_is_revoked_and_only_its_hash_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::of(&Database::open(home.path()).unwrap());
        let key = keys.create("ci").unwrap();
        assert_eq!(keys.holder(&key.text).unwrap().as_deref(), Some("ci"));
        assert_eq!(keys.holder("e2b_0").unwrap(), None);
        assert_eq!(keys.list().unwrap(), std::slice::from_ref(&key.info));
        for entry in std::fs::read_dir(home.path()).unwrap() {
            let content = std::fs::read(entry.unwrap().path()).unwrap();
            let found = content
                .windows(key.text.len())
                .any(|part| part == key.text.as_bytes());
            assert!(!found, "the key's text is on the disk");
        }
        assert!(keys.revoke("ci").unwrap() && !keys.revoke("ci").unwrap());
        assert_eq!(keys.holder(&key.text).unwrap(), None);
    }

    #[test]
    fn a_name_is_given_once() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::of(&Database::open(home.path()).unwrap());
        keys.create("one").unwrap();
        let taken = keys.create("one").unwrap_err();
        assert!(
            matches!(taken, NewKeyError::Name(BadKeyName::Taken(_))),
            "{taken}"
        );
        for name in ["", "a b", &"x".repeat(65), "ü"] {
            let error = keys.create(name).unwrap_err();
            assert!(
                matches!(error, NewKeyError::Name(BadKeyName::Invalid)),
                "{name}: {error}"
            );
        }
    }
}
