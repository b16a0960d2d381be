//! What a recipe begins with.

use std::ffi::OsStr;
use std::fmt;

use crate::hash::TemplateHash;
use crate::oci::RootSource;

/// The files that steps begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Base {
    /// None.
    Scratch,
    /// Busybox and the directories of a small system, which is what a template has that is built from
    /// nothing else.
    Minimal,
    /// Those of a template with a root disk that was built.
    Template(TemplateHash),
    /// Those of a source.
    Source(RootSource),
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch => f.write_str("scratch"),
            Self::Minimal => f.write_str("minimal"),
            Self::Template(hash) => write!(f, "{hash}"),
            Self::Source(source) => source.fmt(f),
        }
    }
}

impl Base {
    /// Parses what stands behind `FROM` in a Dockerfile: also the name of an image alone, which is in
    /// Docker's registry then.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn of_dockerfile(
        text: &str,
        find: impl FnOnce(&str) -> Option<TemplateHash>,
    ) -> Result<Self, NoBase> {
        Self::parse(OsStr::new(text), find).or_else(|error| {
            let image = format!("docker://{text}");
            let source = RootSource::parse(OsStr::new(&image));
            source.map(Self::Source).map_err(|_| error)
        })
    }

    /// Parses `scratch`, `minimal` or the text of a source; `find` returns the template with a name.
    ///
    /// # Errors
    /// The text, with what can stand in its place.
    pub fn parse(
        text: &OsStr,
        find: impl FnOnce(&str) -> Option<TemplateHash>,
    ) -> Result<Self, NoBase> {
        match text.to_str() {
            Some("scratch") => return Ok(Self::Scratch),
            Some("minimal") => return Ok(Self::Minimal),
            _ => {}
        }
        if let Some(hash) = text.to_str().and_then(find) {
            return Ok(Self::Template(hash));
        }
        RootSource::parse(text)
            .map(Self::Source)
            .map_err(|error| NoBase {
                text: text.to_string_lossy().into_owned(),
                source: error,
            })
    }
}

/// The text names nothing that a template can begin with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither the name of a template nor `minimal` nor `scratch`, and {source}")]
pub struct NoBase {
    /// The text.
    pub text: String,
    /// Why it is no source.
    #[source]
    pub source: crate::oci::ParseSourceError,
}
