//! Which template, as people say it at the command line.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use ironclaw_console::progress::note;
use ironclaw_orchestrator::template::oci::{ParseSourceError, RootSource};
use ironclaw_orchestrator::template::recipe::Base;
use ironclaw_orchestrator::template::{
    ParseTemplateNameError, Removal, TemplateError, TemplateHash, TemplateName, TemplateStore,
};
use ironclaw_orchestrator::vm::Config;
use serde::Serialize;

/// The template that VMs boot from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TemplateOptions {
    /// Use this template, by its name; `ironclaw template list` shows them. Overrides
    /// IRONCLAW_TEMPLATE.
    #[arg(long, value_name = "NAME")]
    pub template: Option<TemplateName>,
    /// Use a template with a root of this image, archive or directory, which is built the first time and
    /// when it has changed: sources as for `ironclaw template build --from`.
    #[arg(long, value_name = "SOURCE", conflicts_with = "template",
          value_parser = OsStringValueParser::new().try_map(|text| RootSource::parse(&text)))]
    pub image: Option<RootSource>,
}

impl TemplateOptions {
    /// Returns the settings with the template that these options choose.
    pub fn over(&self, mut config: Config) -> Config {
        if let Some(name) = self.template.clone() {
            config.template = name.into();
        }
        if let Some(source) = self.image.clone() {
            config.template = source.into();
        }
        config
    }
}

/// The name of no files at all, as in Dockerfiles.
const SCRATCH: &str = "scratch";

/// A template that is there, by its name or its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Its name.
    Name(TemplateName),
    /// Its hash.
    Hash(TemplateHash),
}

impl Which {
    /// Returns its hash.
    pub(crate) fn hash(&self, store: &TemplateStore) -> Result<TemplateHash> {
        match self {
            Self::Hash(hash) => Ok(*hash),
            Self::Name(name) => match store.named_hash(name)? {
                Some(hash) => Ok(hash),
                None => Err(store.no_such_name(name).into()),
            },
        }
    }
}

/// What a template begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// An image, an archive or a directory.
    Source(RootSource),
    /// A template, or a name that has a meaning of its own.
    Which(Which),
}

impl Begin {
    /// Parses what people say.
    pub fn parse(text: OsString) -> Result<Self, ParseSourceError> {
        RootSource::parse(&text).map(Self::Source).or_else(|error| {
            let which = text.to_str().and_then(|text| text.parse().ok());
            which.map(Self::Which).ok_or(error)
        })
    }

    /// Returns the files that it names.
    pub(crate) fn base(self, store: &TemplateStore) -> Result<Base> {
        Ok(match self {
            Self::Source(source) => Base::Source(source),
            Self::Which(Which::Name(name)) if name.as_str() == SCRATCH => Base::Scratch,
            Self::Which(Which::Name(name)) if name.is_minimal() => Base::Minimal,
            Self::Which(which) => Base::Template(which.hash(store)?),
        })
    }
}

impl FromStr for Which {
    type Err = ParseTemplateNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(hash) => Ok(Self::Hash(hash)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
        }
    }
}

/// Deletes what is named: by a hash, the template with all its names; by a name, that name, and the
/// template too unless something else leads to it.
pub(crate) fn delete(store: &TemplateStore, which: &Which) -> Result<()> {
    let removal = match which {
        Which::Hash(hash) => store.delete(hash)?,
        Which::Name(name) => {
            let hash = store.remove_name(name)?;
            let is_named = store.names()?.iter().any(|(_, of)| *of == hash);
            if is_named || store.default_hash()? == Some(hash) {
                Removal::Done
            } else {
                match store.delete(&hash) {
                    // Somebody removed its directory.
                    Err(TemplateError::NotFound { .. }) => Removal::Done,
                    deleted => deleted?,
                }
            }
        }
    };
    if removal == Removal::WhenUnused {
        note(&format!(
            "{which} is kept until the processes and snapshots that need it are gone"
        ));
    }
    // Shared ones stay.
    store.remove_unused_layers()?;
    Ok(())
}
