//! Migrations to a file and from one: QEMU's way to write and load a VM's state.

use serde_json::json;

use super::qmp::{Qmp, QmpError};

/// `events` makes QEMU report the end of a migration, which saves polling.
pub(super) fn capabilities() -> serde_json::Value {
    json!({ "capabilities": [
        { "capability": "x-ignore-shared", "state": true },
        { "capability": "events", "state": true },
    ] })
}

pub(super) async fn migrated(qmp: &mut Qmp) -> Result<(), QmpError> {
    let completed = qmp
        .event(|event| match event.data["status"].as_str() {
            Some("completed") => Some(true),
            Some("failed" | "cancelled") => Some(false),
            _ => None,
        })
        .await?;
    if completed {
        Ok(())
    } else {
        Err(QmpError::Refused {
            command: "migrate",
            message: "QEMU reports that the migration failed".to_owned(),
        })
    }
}
