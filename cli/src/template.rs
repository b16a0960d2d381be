//! The command `ironclaw template`.

use anyhow::{Error, Result};
use ironclaw_console::causes;
use ironclaw_console::output::{self, blocking, mebibytes};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::template::oci::RootSource;
use ironclaw_orchestrator::template::{
    BuildSpec, ImportSpec, Manifest, StoreError, Template, TemplateError, TemplateHash,
    TemplateStore,
};
use ironclaw_orchestrator::vm::{Config, find_guest_agent};
use serde::Serialize;

use crate::args::{TemplateTask, Templates};
use crate::each::{self, Done, Name};

#[derive(Debug, Serialize)]
struct Row {
    hash: String,
    default: bool,
    /// The time of the build, in seconds since 1970.
    created: Option<u64>,
    /// The manifest, if the template is usable.
    manifest: Option<Manifest>,
    /// The reason why it is not usable.
    error: Option<String>,
}

/// Builds, imports, lists, verifies or deletes templates.
pub(crate) async fn perform(config: &Config, task: TemplateTask, json: bool) -> Result<u8> {
    match task {
        TemplateTask::Build { from } => build(config, from, json).await?,
        TemplateTask::Import {
            kernel,
            initramfs,
            root_disk,
            boot_args,
        } => {
            let spec = ImportSpec {
                kernel,
                initramfs,
                root_disk,
                boot_args,
            };
            import(config, spec, json).await?;
        }
        TemplateTask::List => list(config, json).await?,
        TemplateTask::Verify(selection) => return verify(config, selection, json).await,
        TemplateTask::Delete(selection) => return delete(config, selection, json).await,
    }
    Ok(0)
}

async fn build(config: &Config, from: Option<RootSource>, json: bool) -> Result<()> {
    let reporter = Reporter::new();
    let (config, watcher) = (config.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let spec = BuildSpec::new(find_guest_agent(&config)?);
        let store = TemplateStore::open(&config.template_path)?;
        let progress = &mut |step| watcher.step(&step);
        Ok(match from {
            Some(source) => store.build_from(&spec, &source, progress)?,
            None => store.build(&spec, progress)?,
        })
    })
    .await?;
    reporter.clear();
    show(&template, json)
}

async fn import(config: &Config, spec: ImportSpec, json: bool) -> Result<()> {
    let reporter = Reporter::new();
    let (path, watcher) = (config.template_path.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        let imported = store.import(&spec, &mut |step| watcher.step(&step));
        imported.map_err(|error| of_import(error, &spec))
    })
    .await?;
    reporter.clear();
    show(&template, json)
}

/// Converts the error of an import: if it is about an imported file, leaves out the store.
fn of_import(error: TemplateError, spec: &ImportSpec) -> Error {
    match &error {
        TemplateError::Store(StoreError::Io { path, .. })
            if [
                Some(&spec.kernel),
                spec.initramfs.as_ref(),
                spec.root_disk.as_ref(),
            ]
            .contains(&Some(path)) =>
        {
            Error::msg(causes(&error))
        }
        _ => error.into(),
    }
}

fn show(template: &Template, json: bool) -> Result<()> {
    if json {
        return output::json(template.manifest());
    }
    let manifest = template.manifest();
    let root = match (&manifest.root_disk, &manifest.root_origin) {
        (Some(disk), Some(origin)) => {
            format!("  root {} of {}", mebibytes(disk.size), origin.source)
        }
        (Some(disk), None) => format!("  root {}", mebibytes(disk.size)),
        (None, _) => String::new(),
    };
    output::line(&format!(
        "{}  kernel {}{}",
        template.hash(),
        manifest.kernel.release,
        root
    ))
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
                let size = mebibytes(size(&manifest));
                let created = output::time(manifest.created);
                [manifest.kernel.release, size, created]
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

/// Returns the total size of its files.
fn size(manifest: &Manifest) -> u64 {
    let initramfs = manifest.initramfs.as_ref();
    let initramfs = initramfs.map_or(0, |initramfs| initramfs.size);
    let root_disk = manifest.root_disk.as_ref().map_or(0, |image| image.size);
    let all = manifest.kernel.size.saturating_add(initramfs);
    all.saturating_add(root_disk)
}

fn rows(store: &TemplateStore) -> Result<Vec<Row>> {
    // A default that is not usable shows as an error in its own row.
    let default = store.default_template().ok().flatten();
    let rows = store.list()?.into_iter().map(|listed| {
        let default = default
            .as_ref()
            .is_some_and(|template| *template.hash() == listed.hash);
        let (manifest, error) = match listed.template {
            Ok(template) => (Some(template.manifest().clone()), None),
            Err(error) => (None, Some(causes(&error))),
        };
        Row {
            hash: listed.hash.to_string(),
            default,
            created: manifest.as_ref().map(|manifest| manifest.created),
            manifest,
            error,
        }
    });
    Ok(rows.collect())
}

async fn verify(config: &Config, selection: Templates, json: bool) -> Result<u8> {
    let done = for_each(config, selection, "verifying", |store, hash| {
        let template = store.load(hash)?;
        template.verify()?;
        Ok(Some(size(template.manifest())))
    });
    each::verified(&done.await?, json)
}

async fn delete(config: &Config, selection: Templates, json: bool) -> Result<u8> {
    let done = for_each(config, selection, "deleting", |store, hash| {
        store.delete(hash)?;
        // Shared ones stay.
        store.remove_unused_layers()?;
        Ok(None)
    });
    each::deleted(&done.await?, "templates", json)
}

/// Applies `action` to every chosen template, even if it fails for some.
async fn for_each(
    config: &Config,
    selection: Templates,
    doing: &'static str,
    action: impl Fn(&TemplateStore, &TemplateHash) -> Result<Option<u64>> + Send + 'static,
) -> Result<Vec<Done>> {
    let reporter = Reporter::new();
    let path = config.template_path.clone();
    blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        let hashes = if selection.all {
            let all = store.list()?.into_iter();
            // A foreign directory that has the name of a template by chance.
            all.filter(|listed| !matches!(listed.template, Err(TemplateError::NotOurs { .. })))
                .map(|listed| listed.hash)
                .collect()
        } else {
            selection.hashes
        };
        Ok(each::each(
            hashes,
            Name::Hash,
            doing,
            |text| reporter.stage(text, false),
            |hash| action(&store, hash),
        ))
    })
    .await
}
