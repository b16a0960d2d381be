//! Parses settings from variables, and reports bad values.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// A variable's name, default, and range: for help texts and documentation.
pub type Variable = (&'static str, &'static str, &'static str);

/// The error of a variable that is out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadValue {
    pub(crate) variable: &'static str,
    pub(crate) value: String,
    pub(crate) expected: &'static str,
}

/// A source of settings. An empty variable counts as unset.
pub(crate) struct Variables<'a> {
    values: &'a dyn Fn(&str) -> Option<OsString>,
    known: &'static [Variable],
}

impl<'a> Variables<'a> {
    /// Creates a source from `values`; `known` has the ranges.
    pub(crate) fn new(
        values: &'a dyn Fn(&str) -> Option<OsString>,
        known: &'static [Variable],
    ) -> Self {
        Self { values, known }
    }

    pub(crate) fn value(&self, variable: &str) -> Option<OsString> {
        (self.values)(variable).filter(|value| !value.is_empty())
    }

    pub(crate) fn path(&self, variable: &str) -> Option<PathBuf> {
        self.value(variable).map(PathBuf::from)
    }

    pub(crate) fn parse<T: FromStr>(&self, variable: &'static str) -> Result<Option<T>, BadValue> {
        let Some(value) = self.value(variable) else {
            return Ok(None);
        };
        match value.to_str().map(T::from_str) {
            Some(Ok(parsed)) => Ok(Some(parsed)),
            _ => Err(self.bad(variable, &value)),
        }
    }

    pub(crate) fn number<T: FromStr + PartialOrd>(
        &self,
        variable: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, BadValue> {
        Ok(self.optional_number(variable, range)?.unwrap_or(default))
    }

    pub(crate) fn optional_number<T: FromStr + PartialOrd>(
        &self,
        variable: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, BadValue> {
        match self.parse(variable)? {
            Some(number) if !range.contains(&number) => {
                Err(self.bad(variable, &self.value(variable).unwrap_or_default()))
            }
            number => Ok(number),
        }
    }

    /// Creates the error of a `value`.
    pub(crate) fn bad(&self, variable: &'static str, value: &OsStr) -> BadValue {
        let mut known = self.known.iter();
        let expected = known
            .find(|(name, ..)| *name == variable)
            .map_or("a valid value", |(_, _, expected)| expected);
        BadValue {
            variable,
            value: value.to_string_lossy().into_owned(),
            expected,
        }
    }
}
