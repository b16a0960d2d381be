//! What a snapshot must be to be restored on this machine.

use anyhow::Result;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::snapshot::Requirements;
use ironclaw_orchestrator::vm::{Config, Launcher};

use crate::template::{self, Current};

/// Of the default template and these settings; `None` while there is no template, which showing
/// statistics must not build.
pub(crate) async fn current(config: &Config) -> Result<Option<Requirements>> {
    let Current::Ready(_) = template::current(config).await? else {
        return Ok(None);
    };
    let launcher = Launcher::open(config, Reporter::new().progress()).await?;
    Ok(Some(launcher.requirements().clone()))
}
