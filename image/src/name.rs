//! Names that people give to templates.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::hash::TemplateHash;

/// Limit of a name in bytes.
const MAX_NAME: usize = 64;

/// A template's name, which may have a tag behind a colon: 1 to 64 letters, digits, dots, hyphens and
/// underscores, each part beginning with a letter or a digit. It leads to the template that was built last under it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateName(String);

/// The text can't be the name of a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} can't be the name of a template: it takes 1 to {MAX_NAME} letters, digits, dots, hyphens and \
     underscores, beginning with a letter or a digit, and no hash; a tag may follow behind a colon"
)]
pub struct ParseTemplateNameError {
    /// What was given.
    pub text: String,
}

impl TemplateName {
    /// The template with a busybox in memory, which is built where nothing else is asked for.
    pub const MINIMAL: &str = "minimal";

    /// The template that IronClaw has a recipe for: a Debian as clients of E2B expect it.
    pub const BASE: &str = "base";

    /// Returns that of the template with a busybox in memory.
    #[must_use]
    pub fn minimal() -> Self {
        Self(Self::MINIMAL.to_owned())
    }

    /// Returns whether it is that of the template with a busybox in memory.
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.0 == Self::MINIMAL
    }

    /// Returns whether it is that of the template that IronClaw has a recipe for.
    #[must_use]
    pub fn is_base(&self) -> bool {
        self.0 == Self::BASE
    }

    /// Returns the name without its tag, and the tag.
    #[must_use]
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (&self.0, None),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateName {
    type Err = ParseTemplateNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let may_follow = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_part = |part: &str| {
            let first = part.bytes().next();
            first.is_some_and(|byte| byte.is_ascii_alphanumeric()) && part.bytes().all(may_follow)
        };
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (text, None),
        };
        let is_name = text.len() <= MAX_NAME
            && is_part(name)
            && tag.is_none_or(is_part)
            // It would be taken for one.
            && text.parse::<TemplateHash>().is_err();
        is_name
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| ParseTemplateNameError {
                text: text.chars().take(2 * MAX_NAME).collect(),
            })
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TemplateName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_of_a_path_and_no_hash() {
        for good in ["a", "python-3.12", "A_b", "9", "a:v1.0", &"x".repeat(64)] {
            assert_eq!(good.parse::<TemplateName>().unwrap().as_str(), good);
        }
        let (hash, long) = ("0a".repeat(32), "x".repeat(65));
        for bad in [
            "", ".", "..", ".hidden", "-x", "a/b", "a b", "é", ":", "a:", ":v1", "a:b:c", "a:.b",
            &hash, &long,
        ] {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad:?} is taken");
        }
    }
}
