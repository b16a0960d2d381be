//! Applies an action to each of several snapshots or templates.

use std::fmt;

use anyhow::Result;
use ironclaw_console::causes;
use ironclaw_console::output;
use ironclaw_console::progress;
use ironclaw_orchestrator::vm::snapshot::SnapshotId;
use serde::Serialize;

use crate::outcome::Outcome;
use crate::which::Which;

/// The name of an item; in JSON as in the list of its kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    /// A snapshot.
    Id(SnapshotId),
    /// A template.
    #[serde(untagged)]
    Template(Which),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Template(which) => which.fmt(f),
        }
    }
}

/// The result for one item.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    #[serde(flatten)]
    name: Name,
    ok: bool,
    error: Option<String>,
    /// Bytes compared by a verification.
    hashed_bytes: Option<u64>,
}

impl Done {
    /// Creates it from the result of an action and the number of bytes compared.
    fn new(name: Name, result: Result<Option<u64>>) -> Self {
        let (hashed_bytes, error) = match result {
            Ok(hashed_bytes) => (hashed_bytes, None),
            Err(error) => (None, Some(causes(error.as_ref()))),
        };
        Self {
            name,
            ok: error.is_none(),
            error,
            hashed_bytes,
        }
    }
}

/// Applies `action` to all of `items`, even if it fails for some. Announces each to `tell` first,
/// as something that it is `doing`.
pub(crate) fn each<T: fmt::Display>(
    items: Vec<T>,
    name: fn(T) -> Name,
    doing: &str,
    tell: impl Fn(&str),
    action: impl Fn(&T) -> Result<Option<u64>>,
) -> Vec<Done> {
    let all = items.len();
    let done = items.into_iter().zip(1..).map(|(item, number)| {
        tell(&format!("{doing} {item} ({number} of {all})"));
        let result = action(&item);
        Done::new(name(item), result)
    });
    done.collect()
}

/// Prints the verified items; the outcome tells whether all match what was published.
pub(crate) fn verified(done: &[Done], json: bool) -> Result<Outcome> {
    print(done, "intact", json)?;
    Ok(if done.iter().all(|done| done.ok) {
        Outcome::Done
    } else {
        Outcome::Found
    })
}

/// Prints the deleted items, which are of the kind `what`; the outcome tells whether all are
/// deleted.
pub(crate) fn deleted(done: &[Done], what: &str, json: bool) -> Result<Outcome> {
    print(done, "deleted", json)?;
    let failed = done.iter().filter(|done| !done.ok).count();
    if failed == 0 {
        return Ok(Outcome::Done);
    }
    // Not an error: that would be printed as a second JSON value.
    progress::note(&format!(
        "error: {failed} of {} {what} could not be deleted",
        done.len()
    ));
    Ok(Outcome::Failed)
}

fn print(done: &[Done], success: &str, json: bool) -> Result<()> {
    if json {
        return output::json(&done);
    }
    for Done { name, error, .. } in done {
        let how = error.as_deref().unwrap_or(success);
        output::line(&format!("{name}  {how}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn each_one_is_announced_before_its_turn_and_a_failure_stops_none() {
        let ids = ["0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f"; 2];
        let ids: Vec<SnapshotId> = ids.map(|id| id.parse().unwrap()).into();
        let happened = RefCell::new(Vec::new());
        let done = each(
            ids.clone(),
            Name::Id,
            "verifying",
            |text| happened.borrow_mut().push(text.to_owned()),
            |_| {
                happened.borrow_mut().push("done".to_owned());
                anyhow::bail!("damaged")
            },
        );
        let first = format!("verifying {} (1 of 2)", ids[0]);
        let second = format!("verifying {} (2 of 2)", ids[1]);
        let expected = [first.as_str(), "done", &second, "done"];
        assert_eq!(*happened.borrow(), expected);
        assert!(done.iter().all(|done| !done.ok));
    }
}
