//! The result of a check.

use ironclaw_console::for_users;
use serde::Serialize;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is as it should be.
    Ok,
    /// A run works, but slower or later.
    Warn,
    /// A run would not work.
    Fail,
}

/// The result of a check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The name of what was checked.
    pub name: &'static str,
    /// How serious it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// The advice.
    pub advice: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: for_users(&found.into()),
            advice: None,
        }
    }

    pub(super) fn warn(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Warn,
            found: for_users(&found.into()),
            advice: Some(for_users(&advice.into())),
        }
    }

    pub(super) fn fail(
        name: &'static str,
        found: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Fail,
            found: for_users(&found.into()),
            advice: advice.as_deref().map(for_users),
        }
    }
}
