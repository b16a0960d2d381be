//! The command `ironclaw template`.

mod recipe;
mod show;

use anyhow::{Error, Result};
use ironclaw_console::causes;
use ironclaw_console::output::{self, blocking, mebibytes};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::template::oci::RootSource;
use ironclaw_orchestrator::template::{
    BuildSpec, ImportSpec, Manifest, StoreError, Template, TemplateError, TemplateName,
    TemplateStore,
};
use ironclaw_orchestrator::vm::{Config, find_guest_agent};
use serde::Serialize;

use crate::each::{self, Done, Name};
use crate::misuse::Misuse;
use crate::outcome::Outcome;
use crate::template_args::{BuildTask, TemplateTask, Templates};
use crate::which::{self, Begin, Which};

#[derive(Debug, Serialize)]
struct Row {
    hash: String,
    /// What leads to it.
    names: Vec<TemplateName>,
    default: bool,
    /// Whether it was deleted, and goes once nothing uses it any more.
    deleted: bool,
    /// The time of the build, in seconds since 1970.
    created: Option<u64>,
    /// The manifest, if the template is usable.
    manifest: Option<Manifest>,
    /// The reason why it is not usable.
    error: Option<String>,
}

/// Builds, imports, lists, verifies or deletes templates.
pub async fn perform(config: &Config, task: TemplateTask, json: bool) -> Result<Outcome> {
    match task {
        TemplateTask::Build(task) => build(config, task, json).await?,
        TemplateTask::Import {
            name,
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
            import(config, name, spec, json).await?;
        }
        TemplateTask::List => list(config, json).await?,
        TemplateTask::Show { which } => show::show(config, which, json).await?,
        TemplateTask::Default { name } => default(config, name, json).await?,
        TemplateTask::Name { which, name } => rename(config, which, name, json).await?,
        TemplateTask::Verify(selection) => return verify(config, selection, json).await,
        TemplateTask::Delete(selection) => return delete(config, selection, json).await,
    }
    Ok(Outcome::Done)
}

async fn build(config: &Config, task: BuildTask, json: bool) -> Result<()> {
    if !task.include.is_empty() && !installs_packages(&task) {
        return Err(Misuse::NothingToInclude.into());
    }
    if recipe::is_one(&task) {
        return built(&recipe::build(config, task).await?, json);
    }
    let BuildTask {
        name,
        from,
        include,
        registry,
        ..
    } = task;
    let from = match from {
        Some(Begin::Source(source)) => Some(source.with_packages(include)?),
        _ => None,
    };
    let reporter = Reporter::new();
    let (config, watcher) = (config.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let spec = BuildSpec {
            max_root_bytes: config.max_root_bytes(),
            ..BuildSpec::new(find_guest_agent(&config)?)
        };
        let spec = spec.with_registry(registry.access(&config, from.as_ref()));
        let store = TemplateStore::open(&config.template_path)?;
        let progress = &mut |step| watcher.step(&step);
        Ok(match (from, &name) {
            (Some(source), _) => store.build_as(name.as_ref(), &spec, &source, progress)?,
            (None, None) => store.build(&spec, progress)?,
            (None, Some(name)) if name.is_minimal() => {
                store.build_if_missing(&spec, &name.clone().into(), progress)?
            }
            (None, Some(name)) => return Err(Misuse::NoSource(name.clone()).into()),
        })
    })
    .await?;
    reporter.clear();
    built(&template, json)
}

/// Returns whether what a template begins with installs packages.
fn installs_packages(task: &BuildTask) -> bool {
    match &task.from {
        Some(Begin::Source(source)) => matches!(source, RootSource::Debian { .. }),
        Some(Begin::Which(_)) => false,
        None => recipe::built_in(task).is_some(),
    }
}

async fn import(
    config: &Config,
    name: Option<TemplateName>,
    spec: ImportSpec,
    json: bool,
) -> Result<()> {
    let reporter = Reporter::new();
    let (path, watcher) = (config.template_path.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        let imported = store.import_as(name.as_ref(), &spec, &mut |step| watcher.step(&step));
        imported.map_err(|error| of_import(error, &spec))
    })
    .await?;
    reporter.clear();
    built(&template, json)
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

fn built(template: &Template, json: bool) -> Result<()> {
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
        let default = match row {
            Row { deleted: true, .. } => "deleted",
            Row { default: true, .. } => "yes",
            _ => "",
        };
        let default = default.to_owned();
        let names: Vec<_> = row.names.iter().map(TemplateName::as_str).collect();
        let [root, size, warm, created] = match row.manifest {
            Some(manifest) => {
                let size = mebibytes(show::size(&manifest));
                let created = output::time(manifest.created);
                // The memory that its warm-up takes.
                let warm = manifest.warm.as_ref().and_then(|warm| warm.memory);
                let warm = warm.map(mebibytes).unwrap_or_default();
                [show::root(&manifest), size, warm, created]
            }
            None => [
                row.error.unwrap_or_default(),
                String::new(),
                String::new(),
                String::new(),
            ],
        };
        [
            names.join(", "),
            row.hash,
            default,
            root,
            size,
            warm,
            created,
        ]
    });
    output::table(
        [
            "NAME", "TEMPLATE", "DEFAULT", "ROOT", "SIZE", "WARM", "BUILT",
        ],
        rows.collect(),
    )
}

/// The default template.
#[derive(Debug, Serialize)]
struct Default {
    name: Option<TemplateName>,
    hash: Option<String>,
}

async fn default(config: &Config, name: Option<TemplateName>, json: bool) -> Result<()> {
    let path = config.template_path.clone();
    let default = blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        if let Some(name) = &name {
            store.set_default(name)?;
        }
        Ok(Default {
            name: store.default_name()?,
            hash: store.default_hash()?.map(|hash| hash.to_string()),
        })
    });
    let default = default.await?;
    if json {
        return output::json(&default);
    }
    output::line(&match default {
        Default {
            name: Some(name),
            hash,
        } => format!("{}  {name}", hash.unwrap_or_default()),
        Default {
            name: None,
            hash: Some(hash),
        } => hash,
        _ => "there is none yet: the next run builds one".to_owned(),
    })
}

async fn rename(config: &Config, which: Which, name: TemplateName, json: bool) -> Result<()> {
    let path = config.template_path.clone();
    let template = blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        let hash = which.hash(&store)?;
        store.set_name(&name, &hash)?;
        Ok(store.load(&hash)?)
    });
    built(&template.await?, json)
}

fn rows(store: &TemplateStore) -> Result<Vec<Row>> {
    // A default that is not usable shows as an error in its own row.
    let default = store.default_hash().ok().flatten();
    let names = store.names()?;
    let rows = store.list()?.into_iter().map(|listed| {
        let of_this = names.iter().filter(|(_, hash)| *hash == listed.hash);
        let names = of_this.map(|(name, _)| name.clone()).collect();
        let (manifest, error) = match listed.template {
            Ok(template) => (Some(template.manifest().clone()), None),
            Err(error) => (None, Some(causes(&error))),
        };
        Row {
            hash: listed.hash.to_string(),
            names,
            default: default == Some(listed.hash),
            deleted: listed.is_deleted,
            created: manifest.as_ref().map(|manifest| manifest.created),
            manifest,
            error,
        }
    });
    Ok(rows.collect())
}

async fn verify(config: &Config, selection: Templates, json: bool) -> Result<Outcome> {
    let done = for_each(config, selection, "verifying", |store, which| {
        let template = store.load(&which.hash(store)?)?;
        template.verify()?;
        Ok(Some(show::size(template.manifest())))
    });
    each::verified(&done.await?, json)
}

async fn delete(config: &Config, selection: Templates, json: bool) -> Result<Outcome> {
    let done = for_each(config, selection, "deleting", |store, which| {
        which::delete(store, which)?;
        Ok(None)
    });
    each::deleted(&done.await?, "templates", json)
}

/// Applies `action` to every chosen template, even if it fails for some.
async fn for_each(
    config: &Config,
    selection: Templates,
    doing: &'static str,
    action: impl Fn(&TemplateStore, &Which) -> Result<Option<u64>> + Send + 'static,
) -> Result<Vec<Done>> {
    let reporter = Reporter::new();
    let path = config.template_path.clone();
    blocking(move || -> Result<_> {
        let store = TemplateStore::open(path)?;
        let chosen = if selection.all {
            let all = store.list()?.into_iter();
            // A foreign directory that has the name of a template by chance.
            all.filter(|listed| !matches!(listed.template, Err(TemplateError::NotOurs { .. })))
                .map(|listed| Which::Hash(listed.hash))
                .collect()
        } else {
            selection.which
        };
        Ok(each::each(
            chosen,
            Name::Template,
            doing,
            |text| reporter.stage(text, false),
            |which| action(&store, which),
        ))
    })
    .await
}
