//! `ironclaw template`

use anyhow::Result;
use ironclaw_orchestrator::template::{BuildSpec, ImportSpec, Manifest, Template, TemplateStore};
use ironclaw_orchestrator::vm::{Config, find_guest_agent};
use serde::Serialize;

use crate::args::TemplateTask;
use crate::exit;
use crate::output::{self, blocking, mebibytes};
use crate::progress::Reporter;

#[derive(Debug, Serialize)]
struct Row {
    hash: String,
    default: bool,
    /// What it was made of, if it can be used.
    manifest: Option<Manifest>,
    /// Why it can't be used.
    error: Option<String>,
}

/// Builds or lists templates.
pub(crate) async fn perform(config: &Config, task: TemplateTask, json: bool) -> Result<u8> {
    match task {
        TemplateTask::Build => build(config, json).await?,
        TemplateTask::Import {
            kernel,
            initramfs,
            boot_args,
        } => {
            let spec = ImportSpec {
                kernel,
                initramfs,
                boot_args,
            };
            import(config, spec, json).await?;
        }
        TemplateTask::List => list(config, json).await?,
    }
    Ok(0)
}

async fn build(config: &Config, json: bool) -> Result<()> {
    let reporter = Reporter::new();
    let (config, watcher) = (config.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let spec = BuildSpec::new(find_guest_agent(&config)?);
        let store = TemplateStore::open(&config.template_path)?;
        Ok(store.build(&spec, &mut |step| watcher.step(&step))?)
    })
    .await?;
    reporter.over();
    show(&template, json)
}

async fn import(config: &Config, spec: ImportSpec, json: bool) -> Result<()> {
    let reporter = Reporter::new();
    let (path, watcher) = (config.template_path.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        Ok(store.import(&spec, &mut |step| watcher.step(&step))?)
    })
    .await?;
    reporter.over();
    show(&template, json)
}

fn show(template: &Template, json: bool) -> Result<()> {
    if json {
        return output::json(template.manifest());
    }
    output::line(&format!(
        "{}  kernel {}",
        template.hash(),
        template.manifest().kernel.release
    ))
}

/// The template that a run would take, read and not built.
#[derive(Debug)]
pub(crate) enum Current {
    /// It is there.
    Ready(Template),
    /// The next run builds it, because of this.
    ToBuild(String),
}

/// Finds out without changing anything but for making the directory.
pub(crate) async fn current(config: &Config) -> Result<Current> {
    let config = config.clone();
    blocking(move || -> Result<_> {
        let template = match TemplateStore::open(&config.template_path)?.default_template() {
            Ok(Some(template)) => template,
            Ok(None) => return Ok(Current::ToBuild("there is none yet".to_owned())),
            Err(error) if error.needs_rebuild() => {
                return Ok(Current::ToBuild(exit::causes(&error)));
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

async fn list(config: &Config, json: bool) -> Result<()> {
    let path = config.template_path.clone();
    let rows = blocking(move || rows(&TemplateStore::open(path)?)).await?;
    if json {
        return output::json(&rows);
    }
    let rows = rows.into_iter().map(|row| {
        let default = if row.default { "yes" } else { "" }.to_owned();
        let [kernel, size, created] = match row.manifest {
            Some(manifest) => {
                let initramfs = manifest.initramfs.map_or(0, |initramfs| initramfs.size);
                let bytes = manifest.kernel.size.saturating_add(initramfs);
                [
                    manifest.kernel.release,
                    mebibytes(bytes),
                    output::time(manifest.created),
                ]
            }
            None => [row.error.unwrap_or_default(), String::new(), String::new()],
        };
        [row.hash, default, kernel, size, created]
    });
    output::table(
        ["TEMPLATE", "DEFAULT", "KERNEL", "SIZE", "BUILT"],
        rows.collect(),
    )
}

fn rows(store: &TemplateStore) -> Result<Vec<Row>> {
    // A default that can't be used shows as an error in its own row.
    let default = store.default_template().ok().flatten();
    let rows = store.list()?.into_iter().map(|listed| {
        let default = default
            .as_ref()
            .is_some_and(|template| *template.hash() == listed.hash);
        let (manifest, error) = match listed.template {
            Ok(template) => (Some(template.manifest().clone()), None),
            Err(error) => (None, Some(exit::causes(&error))),
        };
        Row {
            hash: listed.hash.to_string(),
            default,
            manifest,
            error,
        }
    });
    Ok(rows.collect())
}
