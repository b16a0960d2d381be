//! The report of a daemon's soak.

use std::collections::BTreeMap;

use anyhow::Result;
use ironclaw_console::output;
use ironclaw_orchestrator::vm::vmm::VmmIdentity;
use serde::Serialize;

use crate::soak::leaks::Comparison;
use crate::soak::report::{counted, failed, left_over, skipped, verdict};
use crate::soak::tally::Failures;

/// The whole report.
#[derive(Debug, Serialize)]
pub(in crate::soak) struct Report {
    pub(super) vmm: VmmIdentity,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    /// Whether a signal ended it early.
    pub(super) interrupted: bool,
    /// Whether nothing leaked or was lost, and nothing failed unexpectedly.
    pub(super) ok: bool,
    /// Numbers of requests that did what they should.
    pub(super) requests: BTreeMap<&'static str, u64>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Faults that can't be injected here, with the reasons.
    pub(super) skipped: Vec<String>,
    pub(super) failures: Vec<Failures>,
    pub(super) unexpected_failures: u64,
    /// Comparison after everything was deleted and the daemon ended.
    pub(super) leaks: Vec<Comparison>,
}

impl Report {
    pub(in crate::soak) fn is_ok(&self) -> bool {
        self.ok
    }

    pub(in crate::soak) fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(self);
        }
        output::line(&format!(
            "a daemon with {}, seed {}: {} requests in {:.0} s{}",
            self.vmm,
            self.seed,
            self.requests.values().sum::<u64>(),
            self.seconds,
            if self.interrupted {
                ", ended by a signal"
            } else {
                ""
            }
        ))?;
        counted("REQUESTS", &self.requests)?;
        counted("FAULTS INJECTED", &self.faults)?;
        failed(&self.failures)?;
        left_over(&self.leaks)?;
        skipped(&self.skipped)?;
        verdict(self.ok)
    }
}
