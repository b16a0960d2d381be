//! Finds environment variables that look like settings.

use std::ffi::OsStr;

use ironclaw_orchestrator::vm::config::VARIABLES;

/// The prefix of all settings.
const PREFIX: &str = "IRONCLAW_";
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
    let is_known = VARIABLES.iter().any(|(known, ..)| *known == name);
    name.starts_with(PREFIX) && !name.starts_with(TEST_PREFIX) && !is_known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_that_looks_like_a_setting_is_a_stray() {
        for (name, expected) in [
            ("IRONCLAW_POOL_SIZE", false),
            ("IRONCLAW_POOLSIZE", true),
            ("IRONCLAW_", true),
            ("IRONCLAW_TEST_SEED", false),
            ("POOLSIZE", false),
        ] {
            assert_eq!(is_stray(OsStr::new(name)), expected, "{name}");
        }
    }
}
