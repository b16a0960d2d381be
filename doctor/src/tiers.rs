//! Tests the tiers that need no boot. A pool learns by its spawns whether they work, and switches
//! off a tier that keeps failing; this process has no pool, so it tries them.

use std::time::Instant;

use ironclaw_console::causes;
use ironclaw_console::output::{blocking, milliseconds};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{LaunchError, Launcher, Origin};

use super::check::Check;

const NAME: &str = "tiers";

/// Restores a snapshot that fits, then holds, releases and ends the clone.
pub(super) async fn check(launcher: &Launcher) -> Check {
    let Some(snapshot) = find(launcher).await else {
        return Check::warn(
            NAME,
            "not tried, for want of a usable snapshot",
            "run `ironclaw pool warmup`, then this again",
        );
    };
    let start = Instant::now();
    let tried = launcher.try_tiers(&snapshot).await;
    report(tried, milliseconds(start.elapsed()))
}

/// Finds the first snapshot that can be restored here.
async fn find(launcher: &Launcher) -> Option<Snapshot> {
    let launcher = launcher.clone();
    let found = blocking(move || {
        let (store, required) = (launcher.snapshots(), launcher.requirements());
        let entries = store.list()?.into_iter();
        let fitting = entries.filter(|entry| {
            let manifest = entry.state.as_ref();
            manifest.is_ok_and(|manifest| required.check(manifest).is_ok())
        });
        // Skips an unusable one, as a pool does; another check reports it.
        let mut loaded = fitting.filter_map(|entry| store.load(entry.id, required).ok());
        anyhow::Ok(loaded.next())
    });
    found.await.ok().flatten()
}

fn report(tried: Result<(), (Origin, LaunchError)>, took: f64) -> Check {
    match tried {
        Ok(()) => Check::ok(
            NAME,
            format!("a clone was restored, held, released and ended, in {took:.0} ms"),
        ),
        Err((tier, error)) => {
            let instead = match tier {
                Origin::Warm => "a pool switches the warm tier off, and restores for each spawn",
                _ => "a pool switches the restored tier off, and boots for each spawn",
            };
            Check::warn(
                NAME,
                format!(
                    "{tier} spawns do not work here ({}): {}",
                    error.reason(),
                    causes(&error)
                ),
                format!("{instead}; `ironclaw pool refresh` makes other snapshots"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn a_tier_that_does_not_work_is_named_with_the_reason_and_what_serves_instead() {
        assert_eq!(report(Ok(()), 1.0).status, Status::Ok);
        for (tier, name, instead) in [
            (Origin::Warm, "warm", "restores"),
            (Origin::Restored, "restored", "boots"),
        ] {
            let check = report(Err((tier, LaunchError::ShuttingDown)), 1.0);
            assert_eq!(check.status, Status::Warn);
            assert!(check.found.contains(name), "{check:?}");
            assert!(check.found.contains("shutting_down"), "{check:?}");
            assert!(
                check.advice.as_ref().unwrap().contains(instead),
                "{check:?}"
            );
        }
    }
}
