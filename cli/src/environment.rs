//! Finds environment variables that look like settings.

use std::ffi::OsStr;

use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_settings::{CONFIG, PREFIX};

/// The prefix of the tests' own variables.
const TEST_PREFIX: &str = "IRONCLAW_TEST";

/// Warns of each variable that has the prefix of settings but is none: it has no effect, and was
/// meant to have one.
pub(crate) fn warn_of_strays() {
    for (name, _) in std::env::vars_os() {
        if is_stray(&name) {
            tracing::warn!(
                "{} is no setting and changes nothing; `ironclaw run --help` lists the settings",
                name.display()
            );
        }
    }
}

fn is_stray(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let is_setting = SETTINGS.iter().any(|setting| setting.variable() == name);
    let is_known = is_setting || name == CONFIG;
    name.starts_with(PREFIX) && !name.starts_with(TEST_PREFIX) && !is_known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_that_looks_like_a_setting_is_a_stray() {
        for (name, expected) in [
            ("IRONCLAW_POOL_SIZE", false),
            ("IRONCLAW_CONFIG", false),
            ("IRONCLAW_POOLSIZE", true),
            ("IRONCLAW_", true),
            ("IRONCLAW_TEST_SEED", false),
            ("POOLSIZE", false),
        ] {
            assert_eq!(is_stray(OsStr::new(name)), expected, "{name}");
        }
    }
}
