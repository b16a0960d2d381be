//! The command `ironclaw key`.

use anyhow::Result;
use ironclaw_console::output;
use ironclaw_orchestrator::vm::Config;
use ironclaw_serve::{Database, Key, Keys};
use serde::Serialize;

use crate::key_args::{KeyArgs, KeyTask};
use crate::serve;

#[derive(Debug, Serialize)]
struct Created<'a> {
    name: &'a str,
    key: &'a str,
}

#[derive(Debug, Serialize)]
struct Revoked {
    revoked: bool,
}

/// Makes, lists and revokes keys; a daemon that runs sees it at once. Returns whether there was what is to be
/// revoked.
///
/// # Errors
/// The database's, those of names, and those of standard output.
pub fn perform(config: &Config, args: KeyArgs, json: bool) -> Result<bool> {
    let KeyArgs { state, task } = args;
    let keys = Keys::of(&Database::open(&serve::state(config, state))?);
    match task {
        KeyTask::Create { name } => {
            let Key { text, info, .. } = keys.create(&name)?;
            if json {
                output::json(&Created {
                    name: &info.name,
                    key: &text,
                })?;
            } else {
                output::line(&text)?;
            }
        }
        KeyTask::List => {
            let all = keys.list()?;
            if json {
                output::json(&all)?;
            } else {
                let rows = all.into_iter();
                let rows = rows.map(|key| {
                    [
                        key.name,
                        format!("{}...", key.hint),
                        output::time(key.created),
                    ]
                });
                output::table(["NAME", "KEY", "CREATED"], rows.collect())?;
            }
        }
        KeyTask::Revoke { name } => {
            let revoked = keys.revoke(&name)?;
            if json {
                output::json(&Revoked { revoked })?;
            } else if !revoked {
                output::line(&format!("there is no key {name:?}"))?;
            }
            return Ok(revoked);
        }
    }
    Ok(true)
}
