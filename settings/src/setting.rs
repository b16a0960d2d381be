//! The declaration of a setting.

use std::fmt;

/// The prefix of the variables of all settings.
pub const PREFIX: &str = "IRONCLAW_";

/// A setting: the source of everything said about it.
///
/// Texts may refer to other settings by their keys in backticks: see [`with_variables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key in a file, from which the variable's name is derived.
    pub key: &'static str,
    /// The default.
    pub default: DefaultValue,
    /// The range.
    pub takes: Takes,
    /// The meaning, in a few words.
    pub meaning: &'static str,
}

/// The default of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// A fixed value.
    Is(&'static str),
    /// A description of how it is found.
    Described(&'static str),
}

/// The range of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A number in this range; without a maximum, any larger one.
    Number {
        /// The minimum.
        least: u64,
        /// The maximum.
        most: Option<u64>,
    },
    /// As described by the meaning.
    Text,
}

impl Setting {
    /// Declares a setting whose range is described by its meaning.
    #[must_use]
    pub const fn text(key: &'static str, default: DefaultValue, meaning: &'static str) -> Self {
        Self {
            key,
            default,
            takes: Takes::Text,
            meaning,
        }
    }

    /// Declares a number, from `least` to `most` if there is a maximum.
    #[must_use]
    pub const fn number(
        key: &'static str,
        default: DefaultValue,
        least: u64,
        most: Option<u64>,
        meaning: &'static str,
    ) -> Self {
        Self {
            key,
            default,
            takes: Takes::Number { least, most },
            meaning,
        }
    }

    /// Returns the name of its variable.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// Returns its meaning and range, for help and errors.
    #[must_use]
    pub fn expected(&self) -> String {
        format!("{}{}", self.meaning, self.takes)
    }
}

/// Returns the name of the variable of `key`.
pub(crate) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

impl Takes {
    /// Returns whether a number is in the range.
    #[must_use]
    pub fn allows(&self, number: u64) -> bool {
        match *self {
            Self::Number { least, most } => {
                number >= least && most.is_none_or(|most| number <= most)
            }
            Self::Text => true,
        }
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number {
                least,
                most: Some(most),
            } => write!(f, ", {least}-{most}"),
            Self::Number { least, most: None } => write!(f, ", {least} or more"),
            Self::Text => Ok(()),
        }
    }
}

impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is(text) | Self::Described(text) => text,
        })
    }
}

/// Replaces keys of settings in backticks by the names of their variables: for people who set
/// those. A value may follow the key: `` `jail=off` ``.
#[must_use]
pub fn with_variables(text: &str, settings: &[Setting]) -> String {
    let mut rest = text;
    let mut named = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once('`') {
        named.push_str(before);
        let known = after.split_once('`').and_then(|(word, behind)| {
            let (key, value) = word.split_at(word.find('=').unwrap_or(word.len()));
            let is_known = settings.iter().any(|setting| setting.key == key);
            is_known.then(|| (format!("{}{value}", variable(key)), behind))
        });
        rest = match known {
            Some((name, behind)) => {
                named.push_str(&name);
                behind
            }
            None => {
                named.push('`');
                after
            }
        };
    }
    named.push_str(rest);
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: [Setting; 2] = [
        Setting::number("pool_size", DefaultValue::Is("5"), 1, Some(20), "snapshots"),
        Setting::text("jail", DefaultValue::Is("auto"), "auto, on or off"),
    ];

    #[test]
    fn a_setting_tells_its_variable_and_what_it_takes() {
        let [number, text] = SETTINGS;
        assert_eq!(number.variable(), "IRONCLAW_POOL_SIZE");
        assert_eq!(number.expected(), "snapshots, 1-20");
        assert_eq!(text.expected(), "auto, on or off");
        let more = Setting::number("x", DefaultValue::Is("5"), 3, None, "x");
        assert_eq!(more.expected(), "x, 3 or more");
    }

    #[test]
    fn keys_in_backticks_become_variables_and_all_else_stays() {
        for (text, expected) in [
            ("raise `pool_size` or", "raise IRONCLAW_POOL_SIZE or"),
            ("`jail=off` does without", "IRONCLAW_JAIL=off does without"),
            (
                "run `ironclaw doctor`, `jail`",
                "run `ironclaw doctor`, IRONCLAW_JAIL",
            ),
            ("an odd ` and pool_size", "an odd ` and pool_size"),
            ("`jail", "`jail"),
            ("", ""),
        ] {
            assert_eq!(with_variables(text, &SETTINGS), expected);
        }
    }
}
