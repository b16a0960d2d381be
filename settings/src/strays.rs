//! Finds environment variables that look like settings and are none.

use std::ffi::OsStr;

use crate::{CONFIG, PREFIX, Setting};

/// The prefix of the tests' own variables.
const TEST_PREFIX: &str = "IRONCLAW_TEST";

/// Returns whether a variable has the prefix of settings but is none of these: it has no effect, and was
/// meant to have one.
#[must_use]
pub fn is_stray(name: &OsStr, settings: &[Setting]) -> bool {
    let name = name.to_string_lossy();
    let is_setting = settings.iter().any(|setting| setting.variable() == name);
    let is_known = is_setting || name == CONFIG;
    name.starts_with(PREFIX) && !name.starts_with(TEST_PREFIX) && !is_known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DefaultValue, Takes};

    #[test]
    fn an_unknown_variable_that_looks_like_a_setting_is_a_stray() {
        let settings = [Setting {
            key: "pool_size",
            default: DefaultValue::Is("5"),
            takes: Takes::Number {
                least: 1,
                most: Some(20),
            },
            meaning: "snapshots",
        }];
        for (name, expected) in [
            ("IRONCLAW_POOL_SIZE", false),
            ("IRONCLAW_CONFIG", false),
            ("IRONCLAW_POOLSIZE", true),
            ("IRONCLAW_", true),
            ("IRONCLAW_TEST_SEED", false),
            ("POOLSIZE", false),
        ] {
            assert_eq!(is_stray(OsStr::new(name), &settings), expected, "{name}");
        }
    }
}
