//! The requirements that a snapshot must meet to be restored on this machine.

use anyhow::Result;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::snapshot::Requirements;
use ironclaw_orchestrator::vm::{Config, Launcher};

use crate::template::{self, Current};

/// Returns the requirements of the default template and these settings; `None` without a template,
/// because showing statistics must not build one.
pub(crate) async fn current(config: &Config) -> Result<Option<Requirements>> {
    let Current::Ready(_) = template::current(config).await? else {
        return Ok(None);
    };
    let launcher = Launcher::open(config, Reporter::new().progress()).await?;
    Ok(Some(launcher.requirements().clone()))
}
