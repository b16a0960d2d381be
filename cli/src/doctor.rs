//! The command `ironclaw doctor`.

use anyhow::Result;
use ironclaw_console::output;
use ironclaw_doctor::{Report, Status, examine};
use ironclaw_orchestrator::vm::Config;

use crate::exit::Code;

/// Checks everything; the exit code tells whether a run would work.
pub(crate) async fn run(config: &Config, json: bool) -> Result<u8> {
    let report = examine(config).await;
    let works = report.works;
    if json {
        output::json(&report)
    } else {
        print(report)
    }?;
    Ok(if works { 0 } else { Code::Found as u8 })
}

fn print(report: Report) -> Result<()> {
    for check in report.checks {
        let status = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        output::line(&format!("{status}  {:<16}  {}", check.name, check.found))?;
        if let Some(advice) = check.advice {
            output::line(&format!("{:24}-> {advice}", ""))?;
        }
    }
    output::line(if report.works {
        "`ironclaw run` works here."
    } else {
        "`ironclaw run` would not work: see FAIL above."
    })
}
