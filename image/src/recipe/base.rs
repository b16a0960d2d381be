//! What a recipe begins with.

use std::ffi::OsStr;
use std::fmt;

use crate::hash::TemplateHash;
use crate::oci::{IncludeError, ParseSourceError, RootSource};

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
    /// Has a source install packages beside the required ones.
    ///
    /// # Errors
    /// As for [`RootSource::with_packages`], of whatever this is.
    pub fn with_packages(self, packages: Vec<String>) -> Result<Self, IncludeError> {
        match self {
            Self::Source(source) => source.with_packages(packages).map(Self::Source),
            other if packages.is_empty() => Ok(other),
            other => Err(IncludeError::NotInstalled(other.to_string())),
        }
    }

    /// Parses what stands behind `FROM` in a Dockerfile: also the name of an image alone, which is in
    /// Docker's registry then.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn of_dockerfile(
        text: &str,
        find: impl FnOnce(&str) -> Option<TemplateHash>,
    ) -> Result<Self, NoBase> {
        let parsed = Self::parse(OsStr::new(text), find);
        // To whoever writes Dockerfiles `debian:12` is an image, too.
        let is_image = matches!(parsed, Err(_) | Ok(Self::Source(RootSource::Debian { .. })));
        match RootSource::parse(OsStr::new(&format!("docker://{text}"))) {
            Ok(image) if is_image => Ok(Self::Source(image)),
            _ => parsed,
        }
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
    pub source: ParseSourceError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_begins_with_an_image_where_its_words_could_be_one() {
        let begins = |text: &str| {
            let base = Base::of_dockerfile(text, |_| None);
            base.map(|base| base.to_string()).ok()
        };
        for (text, source) in [
            ("debian:12", Some("docker://docker.io/library/debian:12")),
            ("python", Some("docker://docker.io/library/python:latest")),
            (
                "docker://localhost:5000/a",
                Some("docker://localhost:5000/a:latest"),
            ),
            ("tar:/srv/root.tar", Some("tar:/srv/root.tar")),
            ("scratch", Some("scratch")),
            ("minimal", Some("minimal")),
            ("No Image", None),
        ] {
            assert_eq!(begins(text).as_deref(), source, "{text}");
        }
    }
}
