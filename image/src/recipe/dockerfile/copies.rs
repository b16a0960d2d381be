//! The instructions that copy.

use parse_dockerfile::{Flag, Source, UnescapedString};

use super::error::{DockerfileError, malformed, unsupported};
use super::scope::Scope;
use super::text::Text;
use crate::recipe::absolute::absolute;
use crate::recipe::expand;
use crate::recipe::step::{Copy, CopySource};

/// The instructions that copy.
pub(super) struct Files<'a, 'b> {
    pub(super) keyword: &'static str,
    pub(super) options: &'a [Flag<'b>],
    pub(super) sources: &'a [Source<'b>],
    pub(super) to: &'a UnescapedString<'b>,
}

impl Files<'_, '_> {
    /// Returns what they copy.
    pub(super) fn copy(
        &self,
        text: &Text<'_>,
        line: usize,
        scope: &Scope,
    ) -> Result<Copy, DockerfileError> {
        let lookup = |name: &str| scope.get(name);
        let mut owner = None;
        let mut mode = None;
        for option in self.options {
            let name = &*option.name.value;
            let value = match &option.value {
                Some(value) => text.word(value, line, &lookup)?,
                None => String::new(),
            };
            match name {
                "chown" => owner = Some(value),
                "chmod" => {
                    let parsed = u32::from_str_radix(&value, 8).ok();
                    let parsed = parsed.filter(|mode| *mode <= 0o7777);
                    let reason = || malformed(line, "--chmod takes octal permissions, like 755");
                    mode = Some(parsed.ok_or_else(reason)?);
                }
                _ => {
                    let what = format!("{} --{name}", self.keyword);
                    return Err(unsupported(line, &what));
                }
            }
        }
        let mut sources = Vec::new();
        for source in self.sources {
            sources.push(match source {
                Source::Path(path) => CopySource::Context(text.word(path, line, &lookup)?),
                Source::HereDoc(document) => CopySource::Inline {
                    name: text.document_name(document, line)?,
                    content: if document.expand {
                        expand::word(&escaped_quotes(&document.value), text.escape, &lookup)
                            .map_err(|source| DockerfileError::Expand { line, source })?
                    } else {
                        document.value.to_string()
                    },
                },
                _ => return Err(unsupported(line, "this form of a source")),
            });
        }
        let to = text.word(self.to, line, &lookup)?;
        if sources.is_empty() || to.is_empty() {
            let reason = format!("{} takes a source and a destination", self.keyword);
            return Err(malformed(line, &reason));
        }
        let is_directory = to.ends_with('/') || to.ends_with("/.") || to == ".";
        if sources.len() > 1 && !is_directory {
            let reason = "the destination of several sources has to end in /";
            return Err(malformed(line, reason));
        }
        let mut to = absolute(&scope.workdir, &to);
        if is_directory && !to.ends_with('/') {
            to.push('/');
        }
        Ok(Copy {
            sources,
            to,
            owner,
            mode,
        })
    }
}

/// Refuses sources that `ADD` does more with than `COPY`: it downloads and unpacks.
pub(super) fn refuse_unless_file(path: &str, line: usize) -> Result<(), DockerfileError> {
    const ARCHIVES: [&str; 8] = [
        ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst",
    ];
    if path.contains("://") || path.starts_with("git@") {
        return Err(unsupported(line, "ADD of a URL"));
    }
    if ARCHIVES.iter().any(|end| path.ends_with(end)) {
        return Err(unsupported(
            line,
            "ADD of an archive (COPY it, and RUN what unpacks it)",
        ));
    }
    Ok(())
}

/// Quotes mean nothing in a document: they are escaped for the expansion of a word.
fn escaped_quotes(text: &str) -> String {
    text.replace('\'', "\\'").replace('"', "\\\"")
}
