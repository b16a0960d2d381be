//! How long a run took, stage by stage.

use std::time::Duration;

use ironclaw_console::output::milliseconds;
use ironclaw_orchestrator::vm::Timings;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// Shorter times would show as zero.
const MIN_SHOWN_MS: f64 = 0.05;

/// The times of a run.
#[derive(Debug)]
pub(super) struct Times {
    /// Finding the hypervisor and the template, which may have to be built.
    pub(super) open: Duration,
    /// Reading the snapshots' directory, and making a snapshot if there is none.
    pub(super) pool: Duration,
    pub(super) spawn: Timings,
    pub(super) command: Duration,
}

impl Times {
    /// Lists the parts of the spawn that took time, for people.
    pub(super) fn of_spawn(&self) -> String {
        let parts = self.spawn.parts();
        let parts = parts.map(|(part, took)| (part, milliseconds(took)));
        let parts = parts.into_iter().filter(|(_, took)| *took >= MIN_SHOWN_MS);
        let parts: Vec<_> = parts
            .map(|(part, took)| format!("{part} {took:.1}"))
            .collect();
        parts.join(", ")
    }
}

/// As milliseconds: the parts of the spawn beside all of it.
impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = [("open", self.open), ("pool", self.pool)];
        let after = [("spawn", self.spawn.total)];
        let mut map = serializer.serialize_map(None)?;
        let all = before.into_iter().chain(after).chain(self.spawn.parts());
        for (name, took) in all.chain([("command", self.command)]) {
            map.serialize_entry(name, &milliseconds(took))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> Times {
        let mut spawn = Timings::default();
        spawn.queue = Duration::from_micros(10);
        spawn.failed = Duration::from_secs(1);
        spawn.start = Duration::from_millis(4);
        spawn.hello = Duration::from_micros(1_600_040);
        spawn.total = Duration::from_millis(2604);
        Times {
            open: Duration::from_millis(1),
            pool: Duration::from_millis(1),
            spawn,
            command: Duration::from_millis(3),
        }
    }

    #[test]
    fn each_part_of_a_spawn_that_took_time_is_told() {
        let parts = times().of_spawn();
        assert_eq!(parts, "failed 1000.0, start 4.0, hello 1600.0");
    }

    #[test]
    fn json_has_all_stages_in_milliseconds() {
        let json = serde_json::to_value(times()).unwrap();
        let expected = serde_json::json!({
            "open": 1.0, "pool": 1.0, "spawn": 2604.0, "queue": 0.01, "failed": 1000.0,
            "start": 4.0, "load": 0.0, "resume": 0.0, "hello": 1600.04, "command": 3.0,
        });
        assert_eq!(json, expected);
    }
}
