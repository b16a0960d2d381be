//! The result of a check.

use ironclaw_console::for_users;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// A run works, but slower or later.
    Warn,
    /// A run would not work.
    Fail,
}

#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Status,
    pub(super) found: String,
    /// The advice.
    pub(super) advice: Option<String>,
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
