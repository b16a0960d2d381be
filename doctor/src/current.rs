//! What the next run would use: looked up, never built.

use anyhow::Result;
use ironclaw_console::causes;
use ironclaw_console::output::blocking;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::template::{Template, TemplateStore};
use ironclaw_orchestrator::vm::snapshot::Requirements;
use ironclaw_orchestrator::vm::{Config, Launcher, find_guest_agent};

/// The template that a run would use, without building it.
#[derive(Debug)]
pub(crate) enum Current {
    /// It exists.
    Ready(Template),
    /// The next run builds it, for this reason.
    ToBuild(String),
}

/// Finds it without changing anything, except for creating the store's directory.
pub(crate) async fn template(config: &Config) -> Result<Current> {
    let config = config.clone();
    blocking(move || -> Result<_> {
        let store = TemplateStore::open(&config.template_path)?;
        let template = match store.chosen(&config.template) {
            Ok(Some(template)) => template,
            Ok(None) => {
                store.ensure_buildable(&config.template)?;
                return Ok(Current::ToBuild("there is none yet".to_owned()));
            }
            Err(error) if error.needs_rebuild() => {
                return Ok(Current::ToBuild(causes(&error)));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match find_guest_agent(&config) {
            Ok(agent) if !template.is_imported() && !template.has_agent(&agent)? => {
                Current::ToBuild(format!("it holds another agent than {}", agent.display()))
            }
            _ => Current::Ready(template),
        })
    })
    .await
}

/// Returns the requirements of these settings and their template; `None` without a template,
/// because a look must not build one.
///
/// # Errors
/// The store or the hypervisor can't be used.
pub async fn requirements(config: &Config) -> Result<Option<Requirements>> {
    let Current::Ready(_) = template(config).await? else {
        return Ok(None);
    };
    let launcher = Launcher::open(config, Reporter::new().progress()).await?;
    Ok(Some(launcher.requirements().clone()))
}
