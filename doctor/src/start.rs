//! Tests whether hypervisors start as they do in a run: jailed, if a run jails them.

use std::time::Instant;

use ironclaw_console::causes;
use ironclaw_console::output::milliseconds;
use ironclaw_orchestrator::vm::{Config, Launcher};

use super::check::Check;

/// Starts each one and ends it. If the first does not start, `auto` uses the next.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    const NAME: &str = "start";
    let hypervisors = match Launcher::hypervisors(config).await {
        Ok(hypervisors) => hypervisors,
        // The error has the advice.
        Err(error) => return vec![Check::fail(NAME, causes(&error), None)],
    };
    let mut checks = Vec::new();
    let mut left = hypervisors.len();
    for vmm in hypervisors {
        left -= 1;
        let start = Instant::now();
        let identity = vmm.identity().to_string();
        checks.push(match vmm.try_out(config.machine).await {
            Ok(()) => {
                let took = milliseconds(start.elapsed());
                Check::ok(
                    NAME,
                    format!("{identity} starts, and ends, in {took:.0} ms"),
                )
            }
            Err(error) => {
                let found = format!("{identity} does not start: {}", causes(&error));
                match left {
                    0 => Check::fail(NAME, found, None),
                    _ => Check::warn(NAME, found, "until then the next one runs the guests"),
                }
            }
        });
    }
    checks
}
