//! The values that were set, each with what set it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use crate::file::{self, FileError};
use crate::set_by::SetBy;
use crate::setting::{DefaultValue, Setting};

/// A value that was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value as written.
    pub text: OsString,
    /// What set it.
    pub set_by: SetBy,
}

/// The error of a value that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{set}={value:?} can't be used: it takes {expected}")]
pub struct BadValue {
    /// The setting.
    pub key: &'static str,
    /// What set it: a variable, a line of a file, a flag.
    pub set: String,
    /// The value.
    pub value: String,
    /// The range.
    pub expected: String,
}

/// The error of a flag for an unknown setting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no setting {key:?}{}", file::did_you_mean(*.nearest))]
pub struct UnknownSetting {
    /// The name.
    pub key: String,
    /// The setting with the most similar name.
    pub nearest: Option<&'static str>,
}

/// The values that were set, and the environment. An empty value counts as unset.
pub struct Values<'a> {
    settings: &'static [Setting],
    set: BTreeMap<&'static str, Value>,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> Values<'a> {
    /// Reads the variables of `settings` from `environment`.
    #[must_use]
    pub fn of_variables(
        settings: &'static [Setting],
        environment: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Self {
        let mut values = Self {
            settings,
            set: BTreeMap::new(),
            environment,
        };
        for setting in settings {
            let name = setting.variable();
            if let Some(text) = values.environment(&name) {
                let set_by = SetBy::Variable(name);
                values.set.insert(setting.key, Value { text, set_by });
            }
        }
        values
    }

    /// Adds what the file at `path` sets and nothing else does.
    ///
    /// # Errors
    /// [`FileError`] if any of it can't be used.
    pub fn over_file(mut self, path: &Path) -> Result<Self, FileError> {
        for (key, text, set_by) in file::read(path, self.settings)? {
            if !text.is_empty() {
                let value = Value { text, set_by };
                self.set.entry(key).or_insert(value);
            }
        }
        Ok(self)
    }

    /// Sets `key` by `flag`, which takes precedence.
    ///
    /// # Errors
    /// [`UnknownSetting`].
    pub fn under_flag(
        mut self,
        flag: &'static str,
        key: &str,
        text: OsString,
    ) -> Result<Self, UnknownSetting> {
        let mut all = self.settings.iter();
        let Some(setting) = all.find(|setting| setting.key == key) else {
            return Err(UnknownSetting {
                key: key.to_owned(),
                nearest: file::nearest(key, self.settings),
            });
        };
        let set_by = SetBy::Flag(flag);
        self.set.insert(setting.key, Value { text, set_by });
        Ok(self)
    }

    /// Returns an environment variable that is no setting.
    #[must_use]
    pub fn environment(&self, variable: &str) -> Option<OsString> {
        (self.environment)(variable).filter(|value| !value.is_empty())
    }

    /// Returns the value that was set, if any.
    #[must_use]
    pub fn set(&self, setting: &Setting) -> Option<&Value> {
        let set = self.set.get(setting.key);
        set.filter(|value| !value.text.is_empty())
    }

    /// Returns a path that was set, if any.
    #[must_use]
    pub fn path(&self, setting: &Setting) -> Option<PathBuf> {
        self.set(setting).map(|value| PathBuf::from(&value.text))
    }

    /// Parses the value that was set, or a fixed default.
    ///
    /// # Errors
    /// [`BadValue`].
    pub fn parse<T: FromStr>(&self, setting: &Setting) -> Result<Option<T>, BadValue> {
        let Some(text) = self.text(setting) else {
            return Ok(None);
        };
        match text.to_str().map(T::from_str) {
            Some(Ok(parsed)) => Ok(Some(parsed)),
            _ => Err(self.bad(setting)),
        }
    }

    /// Parses a number, and checks its range.
    ///
    /// # Errors
    /// [`BadValue`].
    pub fn number<T: TryFrom<u64>>(&self, setting: &Setting) -> Result<Option<T>, BadValue> {
        let Some(number) = self.parse::<u64>(setting)? else {
            return Ok(None);
        };
        match T::try_from(number) {
            Ok(fits) if setting.takes.allows(number) => Ok(Some(fits)),
            _ => Err(self.bad(setting)),
        }
    }

    /// Returns the error of the value of `setting`.
    #[must_use]
    pub fn bad(&self, setting: &Setting) -> BadValue {
        let set = self.set(setting);
        let named = |value: &Value| value.set_by.of_key(setting.key);
        BadValue {
            key: setting.key,
            set: set.map_or_else(|| setting.variable(), named),
            value: self
                .text(setting)
                .map_or_else(String::new, |text| text.to_string_lossy().into_owned()),
            expected: setting.expected(),
        }
    }

    fn text(&self, setting: &Setting) -> Option<&OsStr> {
        match (self.set(setting), setting.default) {
            (Some(value), _) => Some(&value.text),
            (None, DefaultValue::Is(text)) => Some(OsStr::new(text)),
            (None, DefaultValue::Described(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const SIZE: Setting =
        Setting::number("pool_size", DefaultValue::Is("5"), 1, Some(20), "snapshots");
    const JAIL: Setting = Setting::text("jail", DefaultValue::Described("none"), "on or off");
    const SETTINGS: &[Setting] = &[SIZE, JAIL];

    fn size_of(variable: Option<&str>, file: Option<&str>, flag: Option<&str>) -> (u64, String) {
        let environment = |name: &str| {
            let set = variable.filter(|_| name == "IRONCLAW_POOL_SIZE");
            set.map(OsString::from)
        };
        let mut values = Values::of_variables(SETTINGS, &environment);
        if let Some(text) = file {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("f.toml");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            values = values.over_file(&path).unwrap();
        }
        if let Some(text) = flag {
            values = values
                .under_flag("--set", "pool_size", text.into())
                .unwrap();
        }
        let set_by = values.set(&SIZE).map(|value| match &value.set_by {
            SetBy::File { line, .. } => format!("line {line}"),
            other => other.to_string(),
        });
        let number = values.number(&SIZE).unwrap().unwrap();
        (number, set_by.unwrap_or_default())
    }

    #[test]
    fn a_flag_comes_before_a_variable_that_before_a_file_and_that_before_the_default() {
        let (variable, file, flag) = (Some("2"), Some("\npool_size = 3\n"), Some("4"));
        let of = |number, set_by: &str| (number, set_by.to_owned());
        assert_eq!(size_of(variable, file, flag), of(4, "--set"));
        assert_eq!(size_of(variable, file, None), of(2, "IRONCLAW_POOL_SIZE"));
        assert_eq!(size_of(None, file, None), of(3, "line 2"));
        assert_eq!(size_of(Some(""), file, None), of(3, "line 2"));
        assert_eq!(size_of(None, None, None), of(5, ""));
    }

    #[test]
    fn a_bad_value_is_told_with_what_set_it_and_what_it_takes() {
        let environment = |name: &str| (name == "IRONCLAW_POOL_SIZE").then(|| OsString::from("21"));
        let values = Values::of_variables(SETTINGS, &environment);
        let told = values.number::<usize>(&SIZE).unwrap_err().to_string();
        let expected = "IRONCLAW_POOL_SIZE=\"21\" can't be used: it takes snapshots, 1-20";
        assert_eq!(told, expected);
        let values = values
            .under_flag("--set", "pool_size", "many".into())
            .unwrap();
        let told = values.number::<usize>(&SIZE).unwrap_err().to_string();
        assert!(told.starts_with("--set pool_size=\"many\""), "{told}");
        let unknown = values.under_flag("--set", "pool_sizes", "1".into());
        let told = unknown.err().unwrap().to_string();
        assert!(told.contains("\"pool_size\""), "{told}");
    }
}
