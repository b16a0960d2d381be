//! The declaration of a setting.

use std::fmt;

/// How the variables of all settings begin.
pub const PREFIX: &str = "IRONCLAW_";

/// A setting: all that is said of it anywhere comes from here.
///
/// Texts may name other settings, by their keys in backticks: see [`with_variables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its key in a file, by which its variable is called, too.
    pub key: &'static str,
    /// Its value where nobody sets it.
    pub default: DefaultValue,
    /// Its values.
    pub takes: Takes,
    /// What it is, in a few words.
    pub meaning: &'static str,
}

/// The value of a setting that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// This one.
    Is(&'static str),
    /// None that could be written down: how it is found.
    Described(&'static str),
}

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A number in this range; without a last one, as large as there are.
    Number {
        /// The first.
        least: u64,
        /// The last.
        most: Option<u64>,
    },
    /// What its meaning says.
    Text,
}

impl Setting {
    /// A setting whose values its meaning tells.
    #[must_use]
    pub const fn text(key: &'static str, default: DefaultValue, meaning: &'static str) -> Self {
        Self {
            key,
            default,
            takes: Takes::Text,
            meaning,
        }
    }

    /// A number, from `least` to `most` if there is such.
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

    /// The name of its variable.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// What it is and takes, as help and errors have it.
    #[must_use]
    pub fn expected(&self) -> String {
        format!("{}{}", self.meaning, self.takes)
    }
}

/// The name of the variable of `key`.
pub(crate) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
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

/// A text in which settings are named by their keys in backticks, with the names of their variables: for
/// people who set those. A value may follow the key: `` `jail=off` ``.
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
