//! `ironclaw template show`.

use anyhow::{Result, bail};
use ironclaw_console::output::{self, blocking, mebibytes};
use ironclaw_orchestrator::template::{Manifest, TemplateName, TemplateStore};
use ironclaw_orchestrator::vm::Config;
use serde::Serialize;

use crate::which::Which;

/// A template as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    hash: String,
    names: Vec<TemplateName>,
    default: bool,
    manifest: Manifest,
}

pub(super) async fn show(config: &Config, which: Option<Which>, json: bool) -> Result<()> {
    let path = config.template_path.clone();
    let shown = blocking(move || find(&TemplateStore::open(path)?, which)).await?;
    if json {
        return output::json(&shown);
    }
    let rows = rows(&shown);
    let width = rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    for (what, text) in &rows {
        output::line(&format!("{what:width$}  {text}"))?;
    }
    Ok(())
}

fn find(store: &TemplateStore, which: Option<Which>) -> Result<Shown> {
    let default = store.default_hash()?;
    let hash = match (which, default) {
        (Some(which), _) => which.hash(store)?,
        (None, Some(hash)) => hash,
        (None, None) => bail!("there is no default template yet: the next run builds one"),
    };
    let template = store.load(&hash)?;
    let names = store.names()?.into_iter().filter(|(_, of)| *of == hash);
    Ok(Shown {
        hash: hash.to_string(),
        names: names.map(|(name, _)| name).collect(),
        default: default == Some(hash),
        manifest: template.manifest().clone(),
    })
}

/// Returns the total size of its files.
pub(super) fn size(manifest: &Manifest) -> u64 {
    let initramfs = manifest.initramfs.as_ref();
    let initramfs = initramfs.map_or(0, |initramfs| initramfs.size);
    let root_disk = manifest.root_disk.as_ref().map_or(0, |image| image.size);
    let all = manifest.kernel.size.saturating_add(initramfs);
    all.saturating_add(root_disk)
}

/// Says in a few words what the root of a template is.
pub(super) fn root(manifest: &Manifest) -> String {
    match (&manifest.root_disk, &manifest.root_origin) {
        (Some(_), Some(origin)) => origin.source.clone(),
        (Some(_), None) => "an imported image".to_owned(),
        (None, _) => match manifest.initramfs {
            Some(_) => "in memory".to_owned(),
            None => "the kernel's own".to_owned(),
        },
    }
}

fn rows(shown: &Shown) -> Vec<(&'static str, String)> {
    let manifest = &shown.manifest;
    let names: Vec<_> = shown.names.iter().map(TemplateName::as_str).collect();
    let mut rows = vec![
        ("template", shown.hash.clone()),
        ("names", names.join(", ")),
        (
            "default",
            if shown.default { "yes" } else { "no" }.to_owned(),
        ),
        ("kernel", manifest.kernel.release.clone()),
        ("root", root(manifest)),
        ("size", mebibytes(size(manifest))),
        ("built", output::time(manifest.created)),
    ];
    if let Some(origin) = &manifest.root_origin {
        let config = &origin.config;
        let digest = origin.digest.as_ref();
        rows.extend(digest.map(|digest| ("digest", format!("sha256:{digest}"))));
        rows.extend(config.env.iter().map(|variable| ("env", plain(variable))));
        rows.push(("user", plain(&config.user)));
        rows.push(("workdir", plain(&config.working_dir)));
        rows.push(("entrypoint", words(&config.entrypoint)));
        rows.push(("cmd", words(&config.cmd)));
        rows.push(("stop signal", plain(&config.stop_signal)));
        let labels = config.labels.iter();
        rows.extend(labels.map(|(name, value)| ("label", plain(&format!("{name}={value}")))));
    }
    rows.retain(|(_, text)| !text.is_empty());
    rows
}

/// A list of words, each in quotes where it would not be one otherwise.
fn words(list: &[String]) -> String {
    let shown = list.iter().map(|word| {
        let is_one = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '"');
        let word = plain(word);
        if is_one { word } else { format!("{word:?}") }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// A text of an image, for a terminal.
fn plain(text: &str) -> String {
    ironclaw_console::untrusted_line(text)
}
