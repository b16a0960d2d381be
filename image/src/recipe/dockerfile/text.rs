//! The text of a Dockerfile: its words, lines, and what they say.

use parse_dockerfile::{HereDoc, Instruction, RunInstruction, Spanned, UnescapedString};

use super::error::{DockerfileError, malformed, unsupported};
use super::instruction::start;
use crate::recipe::expand;

/// Limit of the text that shows a step, in characters.
const MAX_SHOWN: usize = 200;

/// A text, and the character that its directive says for `\`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    pub(super) escape: char,
}

/// The values of variables.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Text<'_> {
    /// Returns a shell's script without its continued lines, which end in the escape character.
    pub(super) fn joined(&self, script: &Spanned<&str>) -> String {
        let mut joined = String::with_capacity(script.value.len());
        let mut continued = false;
        for line in script.value.split_inclusive('\n') {
            // Docker leaves comments between continued lines out.
            if continued && line.trim_start().starts_with('#') {
                continue;
            }
            let text = line.trim_end();
            match text.strip_suffix(self.escape) {
                Some(begin) if line.ends_with('\n') => {
                    joined.push_str(begin);
                    continued = true;
                }
                _ => {
                    joined.push_str(line);
                    continued = false;
                }
            }
        }
        joined.trim_end().to_owned()
    }

    /// Returns the script of a `RUN` that begins with a here-document: the document itself if it is
    /// all there is, or the text as it stands, for a shell that knows here-documents.
    pub(super) fn script(
        &self,
        instruction: &RunInstruction<'_>,
        command: &Spanned<&str>,
        document: &HereDoc<'_>,
        line: usize,
    ) -> Result<String, DockerfileError> {
        if !command.value.trim().is_empty() {
            let rest = self.text.get(document.span.end..).unwrap_or_default();
            // The line with the delimiter.
            let end = document.span.end + rest.find('\n').unwrap_or(rest.len());
            let text = self.text.get(instruction.run.span.end..end);
            return Ok(text.unwrap_or_default().trim().to_owned());
        }
        if document.value.starts_with("#!") {
            return Err(unsupported(line, "a here-document with a #! line"));
        }
        Ok(document.value.trim_start_matches('\n').to_owned())
    }

    /// Returns the word after `<<`, the name of a file that a document is.
    pub(super) fn document_name(
        &self,
        document: &HereDoc<'_>,
        line: usize,
    ) -> Result<String, DockerfileError> {
        // The document ends where its delimiter begins, on a line of its own.
        let rest = self.text.get(document.span.end..).unwrap_or_default();
        let name = rest.lines().next().map(str::trim);
        name.filter(|name| !name.is_empty())
            .map(str::to_owned)
            .ok_or_else(|| malformed(line, "a here-document has no name"))
    }

    /// Returns what `NAME=VALUE NAME=VALUE`, or the old `NAME VALUE`, says.
    pub(super) fn pairs(
        &self,
        arguments: &UnescapedString<'_>,
        keyword: &str,
        line: usize,
        lookup: Lookup<'_>,
    ) -> Result<Vec<(String, String)>, DockerfileError> {
        let text = arguments.value.trim();
        let first = text.split(char::is_whitespace).next().unwrap_or_default();
        if !first.contains('=') {
            let Some((name, value)) = text.split_once(char::is_whitespace) else {
                return Err(malformed(line, &format!("{keyword} takes NAME=VALUE")));
            };
            let value = expand::word(value.trim_start(), self.escape, lookup)
                .map_err(|source| DockerfileError::Expand { line, source })?;
            return Ok(vec![(name.to_owned(), value)]);
        }
        let words = expand::words(text, self.escape, lookup)
            .map_err(|source| DockerfileError::Expand { line, source })?;
        let pairs = words.into_iter().map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(malformed(line, &format!("{keyword} takes NAME=VALUE"))),
        });
        pairs.collect()
    }

    /// Returns the names that an `ARG` declares, with their defaults.
    pub(super) fn declared(
        &self,
        arguments: &UnescapedString<'_>,
        line: usize,
        lookup: Lookup<'_>,
    ) -> Result<Vec<(String, Option<String>)>, DockerfileError> {
        let words = expand::words(&arguments.value, self.escape, lookup)
            .map_err(|source| DockerfileError::Expand { line, source })?;
        if words.is_empty() {
            return Err(malformed(line, "ARG declares nothing"));
        }
        let declared = words.into_iter().map(|word| match word.split_once('=') {
            Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
            None => (word, None),
        });
        Ok(declared.collect())
    }

    pub(super) fn word(
        &self,
        text: &UnescapedString<'_>,
        line: usize,
        lookup: Lookup<'_>,
    ) -> Result<String, DockerfileError> {
        expand::word(text.value.trim(), self.escape, lookup)
            .map_err(|source| DockerfileError::Expand { line, source })
    }

    /// Returns the line that an instruction begins on, counted from 1.
    pub(super) fn line(&self, instruction: &Instruction<'_>) -> usize {
        line_at(self.text, start(instruction))
    }

    /// Returns an instruction's text on one line.
    pub(super) fn shown(&self, instruction: &Instruction<'_>) -> String {
        let text = self.text.get(start(instruction)..).unwrap_or_default();
        let mut shown = String::new();
        for line in text.lines() {
            let line = line.trim();
            let continued = line.strip_suffix(self.escape);
            shown.push_str(continued.unwrap_or(line).trim_end());
            if continued.is_none() || shown.len() > 4 * MAX_SHOWN {
                break;
            }
            shown.push(' ');
        }
        match shown.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => format!("{}...", &shown[..end]),
            None => shown,
        }
    }
}

/// Returns the line of a byte's offset, counted from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.matches('\n').count() + 1
}
