//! Dockerfiles, as far as steps go: one stage, no features of BuildKit but here-documents.
//!
//! Instructions are described at <https://docs.docker.com/reference/dockerfile/>. One that is not
//! supported is an error with its line: an image that lacks a step silently is worse than none.

use std::collections::{BTreeMap, BTreeSet};

use parse_dockerfile::{
    Command, Flag, HereDoc, Instruction, RunInstruction, Source, Spanned, UnescapedString,
};
use thiserror::Error;

use super::expand::{self, ExpandError};
use super::{Action, Copy, CopySource, Step};

/// Size limit of a Dockerfile, in bytes.
const MAX_DOCKERFILE: usize = 1024 * 1024;
/// Limit of the instructions in one.
const MAX_INSTRUCTIONS: usize = 1000;
/// Limit of the text that shows a step, in characters.
const MAX_SHOWN: usize = 200;
/// The shell of a `RUN` without a JSON array.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Build arguments that need no `ARG`.
const PREDEFINED_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The reason why a Dockerfile can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DockerfileError {
    /// It is too long.
    #[error("a Dockerfile has at most {MAX_DOCKERFILE} bytes and {MAX_INSTRUCTIONS} instructions")]
    TooLarge,
    /// It is malformed.
    #[error("line {line}: {reason}")]
    Malformed {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An instruction, or a form of one, that is not supported.
    #[error("line {line}: {what} is not supported")]
    Unsupported {
        /// The line, counted from 1.
        line: usize,
        /// The instruction or option.
        what: String,
    },
    /// A variable could not be expanded.
    #[error("line {line} can't be expanded")]
    Expand {
        /// The line, counted from 1.
        line: usize,
        /// The reason.
        #[source]
        source: ExpandError,
    },
    /// Build arguments were given that it declares nowhere.
    #[error("no ARG declares {}", .0.join(", "))]
    UnknownArgs(Vec<String>),
}

/// A Dockerfile.
#[derive(Debug)]
pub struct Dockerfile<'a> {
    text: &'a str,
    parsed: parse_dockerfile::Dockerfile<'a>,
    escape: char,
    args: &'a BTreeMap<String, String>,
    /// Values of the `ARG`s before `FROM`.
    global: BTreeMap<String, String>,
    from: String,
    /// The index of the first instruction after `FROM`.
    body: usize,
}

impl<'a> Dockerfile<'a> {
    /// Parses `text`; `args` are the values of its `ARG`s.
    ///
    /// # Errors
    /// [`DockerfileError`] if it is malformed, or uses what is not supported before its steps.
    pub fn parse(
        text: &'a str,
        args: &'a BTreeMap<String, String>,
    ) -> Result<Self, DockerfileError> {
        if text.len() > MAX_DOCKERFILE {
            return Err(DockerfileError::TooLarge);
        }
        // The parser's offsets do not count it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        refuse_later_documents(text)?;
        let parsed = parse_dockerfile::parse(text).map_err(|error| DockerfileError::Malformed {
            line: error.line(),
            reason: format!("{error:#}"),
        })?;
        if parsed.instructions.len() > MAX_INSTRUCTIONS {
            return Err(DockerfileError::TooLarge);
        }
        let escape = parsed.parser_directives.escape.as_ref();
        let escape = escape.map_or('\\', |directive| directive.value.value);
        let mut dockerfile = Self {
            text,
            parsed,
            escape,
            args,
            global: BTreeMap::new(),
            from: String::new(),
            body: 0,
        };
        dockerfile.read_head()?;
        Ok(dockerfile)
    }

    /// Returns the image that it begins with, as `FROM` names it.
    #[must_use]
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Reads the `ARG`s before `FROM`, and that.
    fn read_head(&mut self) -> Result<(), DockerfileError> {
        for (at, instruction) in self.parsed.instructions.iter().enumerate() {
            let line = self.line(instruction);
            match instruction {
                Instruction::Arg(arg) => {
                    let global = &self.global;
                    let lookup = |name: &str| global.get(name).cloned();
                    let declared = self.declared(&arg.arguments, line, &lookup)?;
                    for (name, default) in declared {
                        if let Some(value) = self.args.get(&name).cloned().or(default) {
                            self.global.insert(name, value);
                        }
                    }
                }
                Instruction::From(from) => {
                    if let Some(option) = from.options.first() {
                        return Err(unsupported(line, &format!("FROM --{}", option.name.value)));
                    }
                    let lookup = |name: &str| self.global.get(name).cloned();
                    self.from = self.word(&from.image, line, &lookup)?;
                    if self.from.is_empty() {
                        return Err(malformed(line, "FROM names no image"));
                    }
                    self.body = at + 1;
                    return Ok(());
                }
                other => {
                    let reason = format!("{} stands before FROM", keyword(other));
                    return Err(malformed(line, &reason));
                }
            }
        }
        Err(malformed(1, "there is no FROM"))
    }

    /// Returns the steps. `env` is the environment of the image that it begins with, and `workdir`
    /// its directory, an absolute path.
    ///
    /// # Errors
    /// [`DockerfileError`] with the line of the first instruction that can't be followed.
    pub fn steps(
        &self,
        env: &[(String, String)],
        workdir: &str,
    ) -> Result<Vec<Step>, DockerfileError> {
        let mut scope = Scope {
            env: env.iter().cloned().collect(),
            args: BTreeMap::new(),
            workdir: workdir.to_owned(),
            shell: DEFAULT_SHELL.map(str::to_owned).to_vec(),
        };
        let mut declared: BTreeSet<&str> = self.global.keys().map(String::as_str).collect();
        declared.extend(PREDEFINED_ARGS);
        let mut steps = Vec::new();
        for instruction in &self.parsed.instructions[self.body..] {
            let line = self.line(instruction);
            if let Instruction::Arg(arg) = instruction {
                let lookup = |name: &str| scope.get(name);
                for (name, default) in self.declared(&arg.arguments, line, &lookup)? {
                    let global = self.global.get(&name);
                    let value = self.args.get(&name).or(default.as_ref()).or(global);
                    if let Some(value) = value.cloned() {
                        scope.args.insert(name.clone(), value);
                    }
                    if let Some((name, _)) = self.args.get_key_value(&name) {
                        declared.insert(name);
                    }
                }
                continue;
            }
            let Some(action) = self.action(instruction, line, &mut scope)? else {
                continue;
            };
            steps.push(Step {
                line: Some(line),
                text: self.shown(instruction),
                action,
            });
        }
        let unknown = self.args.keys().filter(|&name| !declared.contains(&**name));
        let unknown: Vec<_> = unknown.cloned().collect();
        if unknown.is_empty() {
            Ok(steps)
        } else {
            Err(DockerfileError::UnknownArgs(unknown))
        }
    }

    /// Returns the action of an instruction; `None` if all it does is change `scope`.
    fn action(
        &self,
        instruction: &Instruction<'_>,
        line: usize,
        scope: &mut Scope,
    ) -> Result<Option<Action>, DockerfileError> {
        let word = |text: &UnescapedString<'_>, scope: &Scope| {
            self.word(text, line, &|name| scope.get(name))
        };
        Ok(Some(match instruction {
            Instruction::Run(run) => {
                if let Some(option) = run.options.first() {
                    return Err(unsupported(line, &format!("RUN --{}", option.name.value)));
                }
                let argv = match (&run.arguments, run.here_docs.as_slice()) {
                    (arguments, []) => self.argv(arguments, scope),
                    (Command::Shell(command), [document]) => {
                        scope.in_shell(self.script(run, command, document, line)?)
                    }
                    _ => return Err(unsupported(line, "this form of RUN")),
                };
                let env = scope.args.iter();
                let env = env.filter(|(name, _)| !scope.env.contains_key(*name));
                let env = env.map(|(name, value)| (name.clone(), value.clone()));
                Action::Run {
                    argv,
                    env: env.collect(),
                }
            }
            Instruction::Copy(copy) => {
                let files = Files {
                    keyword: "COPY",
                    options: &copy.options,
                    sources: &copy.src,
                    to: &copy.dest,
                };
                Action::Copy(self.copy(&files, line, scope)?)
            }
            Instruction::Add(add) => {
                let files = Files {
                    keyword: "ADD",
                    options: &add.options,
                    sources: &add.src,
                    to: &add.dest,
                };
                let copy = self.copy(&files, line, scope)?;
                for source in &copy.sources {
                    if let CopySource::Context(path) = source {
                        refuse_unless_file(path, line)?;
                    }
                }
                Action::Copy(copy)
            }
            Instruction::Env(env) => {
                let pairs = self.pairs(&env.arguments, "ENV", line, scope)?;
                scope.env.extend(pairs.iter().cloned());
                Action::Env(pairs)
            }
            Instruction::Label(label) => {
                Action::Label(self.pairs(&label.arguments, "LABEL", line, scope)?)
            }
            Instruction::User(user) => {
                let user = word(&user.arguments, scope)?;
                if user.is_empty() {
                    return Err(malformed(line, "USER names nobody"));
                }
                Action::User(user)
            }
            Instruction::Workdir(workdir) => {
                let path = word(&workdir.arguments, scope)?;
                if path.is_empty() {
                    return Err(malformed(line, "WORKDIR names no directory"));
                }
                scope.workdir = absolute(&scope.workdir, &path);
                Action::Workdir(scope.workdir.clone())
            }
            Instruction::Cmd(cmd) => Action::Cmd(self.argv(&cmd.arguments, scope)),
            Instruction::Entrypoint(entrypoint) => {
                Action::Entrypoint(self.argv(&entrypoint.arguments, scope))
            }
            Instruction::Stopsignal(signal) => Action::StopSignal(word(&signal.arguments, scope)?),
            Instruction::Expose(expose) => {
                let ports = expose.arguments.iter().map(|port| word(port, scope));
                Action::Expose(ports.collect::<Result<_, _>>()?)
            }
            Instruction::Shell(shell) => {
                let argv = shell.arguments.iter().map(|word| word.value.to_string());
                scope.shell = argv.collect();
                if scope.shell.is_empty() {
                    return Err(malformed(line, "SHELL names no program"));
                }
                return Ok(None);
            }
            Instruction::From(_) => {
                return Err(unsupported(line, "a second FROM (a build in stages)"));
            }
            other => return Err(unsupported(line, keyword(other))),
        }))
    }

    fn argv(&self, command: &Command<'_>, scope: &Scope) -> Vec<String> {
        match command {
            Command::Exec(words) => {
                let words = words.value.iter().map(|word| word.value.to_string());
                words.collect()
            }
            Command::Shell(script) => scope.in_shell(self.joined(script)),
            // The enum may grow; the crate's version is pinned by the lock file.
            _ => Vec::new(),
        }
    }

    /// Returns a shell's script without its continued lines, which end in the escape character.
    fn joined(&self, script: &Spanned<&str>) -> String {
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
    fn script(
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

    fn copy(
        &self,
        files: &Files<'_, '_>,
        line: usize,
        scope: &Scope,
    ) -> Result<Copy, DockerfileError> {
        let lookup = |name: &str| scope.get(name);
        let mut owner = None;
        let mut mode = None;
        for option in files.options {
            let name = &*option.name.value;
            let value = match &option.value {
                Some(value) => self.word(value, line, &lookup)?,
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
                    let what = format!("{} --{name}", files.keyword);
                    return Err(unsupported(line, &what));
                }
            }
        }
        let mut sources = Vec::new();
        for source in files.sources {
            sources.push(match source {
                Source::Path(path) => CopySource::Context(self.word(path, line, &lookup)?),
                Source::HereDoc(document) => CopySource::Inline {
                    name: self.document_name(document, line)?,
                    content: if document.expand {
                        expand::word(&escaped_quotes(&document.value), self.escape, &lookup)
                            .map_err(|source| DockerfileError::Expand { line, source })?
                    } else {
                        document.value.to_string()
                    },
                },
                _ => return Err(unsupported(line, "this form of a source")),
            });
        }
        let to = self.word(files.to, line, &lookup)?;
        if sources.is_empty() || to.is_empty() {
            let reason = format!("{} takes a source and a destination", files.keyword);
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

    /// Returns the word after `<<`, the name of a file that a document is.
    fn document_name(
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
    fn pairs(
        &self,
        arguments: &UnescapedString<'_>,
        keyword: &str,
        line: usize,
        scope: &Scope,
    ) -> Result<Vec<(String, String)>, DockerfileError> {
        let lookup = |name: &str| scope.get(name);
        let text = arguments.value.trim();
        let first = text.split(char::is_whitespace).next().unwrap_or_default();
        if !first.contains('=') {
            let Some((name, value)) = text.split_once(char::is_whitespace) else {
                return Err(malformed(line, &format!("{keyword} takes NAME=VALUE")));
            };
            let value = expand::word(value.trim_start(), self.escape, &lookup)
                .map_err(|source| DockerfileError::Expand { line, source })?;
            return Ok(vec![(name.to_owned(), value)]);
        }
        let words = expand::words(text, self.escape, &lookup)
            .map_err(|source| DockerfileError::Expand { line, source })?;
        let pairs = words.into_iter().map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(malformed(line, &format!("{keyword} takes NAME=VALUE"))),
        });
        pairs.collect()
    }

    /// Returns the names that an `ARG` declares, with their defaults.
    fn declared(
        &self,
        arguments: &UnescapedString<'_>,
        line: usize,
        lookup: &dyn Fn(&str) -> Option<String>,
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

    fn word(
        &self,
        text: &UnescapedString<'_>,
        line: usize,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, DockerfileError> {
        expand::word(text.value.trim(), self.escape, lookup)
            .map_err(|source| DockerfileError::Expand { line, source })
    }

    /// Returns the line that an instruction begins on, counted from 1.
    fn line(&self, instruction: &Instruction<'_>) -> usize {
        line_at(self.text, start(instruction))
    }

    /// Returns an instruction's text on one line.
    fn shown(&self, instruction: &Instruction<'_>) -> String {
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

/// The instructions that copy.
struct Files<'a, 'b> {
    keyword: &'static str,
    options: &'a [Flag<'b>],
    sources: &'a [Source<'b>],
    to: &'a UnescapedString<'b>,
}

/// What instructions see of those before them.
struct Scope {
    env: BTreeMap<String, String>,
    args: BTreeMap<String, String>,
    workdir: String,
    shell: Vec<String>,
}

impl Scope {
    /// Returns a variable's value; one of the environment hides a build argument.
    fn get(&self, name: &str) -> Option<String> {
        self.env.get(name).or(self.args.get(name)).cloned()
    }

    fn in_shell(&self, script: String) -> Vec<String> {
        let mut argv = self.shell.clone();
        argv.push(script);
        argv
    }
}

/// Refuses a here-document behind other words of a `RUN`: the parser would take its lines for
/// instructions.
fn refuse_later_documents(text: &str) -> Result<(), DockerfileError> {
    let Ok(instructions) = parse_dockerfile::parse_iter(text) else {
        return Ok(());
    };
    for instruction in instructions.map_while(Result::ok) {
        let Instruction::Run(run) = &instruction else {
            continue;
        };
        let (Command::Shell(command), []) = (&run.arguments, run.here_docs.as_slice()) else {
            continue;
        };
        let words = expand::words(command.value, '\\', &|_| None).unwrap_or_default();
        if words.iter().any(|word| is_here_document(word)) {
            let line = line_at(text, run.run.span.start);
            return Err(unsupported(
                line,
                "a here-document that the RUN does not begin with",
            ));
        }
    }
    Ok(())
}

/// Returns whether a shell takes `word` for the begin of a here-document: `<<EOF`, `<<-EOF`, `3<<EOF`.
fn is_here_document(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    word.strip_prefix("<<").is_some_and(|name| {
        let name = name.strip_prefix('-').unwrap_or(name);
        !name.is_empty() && !name.contains('<')
    })
}

/// Returns the line of a byte's offset, counted from 1.
fn line_at(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.matches('\n').count() + 1
}

/// Refuses sources that `ADD` does more with than `COPY`: it downloads and unpacks.
fn refuse_unless_file(path: &str, line: usize) -> Result<(), DockerfileError> {
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

/// Returns `path` seen from the directory `base`, without `.`, `..` and doubled slashes.
pub(super) fn absolute(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn malformed(line: usize, reason: &str) -> DockerfileError {
    DockerfileError::Malformed {
        line,
        reason: reason.to_owned(),
    }
}

fn unsupported(line: usize, what: &str) -> DockerfileError {
    DockerfileError::Unsupported {
        line,
        what: what.to_owned(),
    }
}

fn keyword(instruction: &Instruction<'_>) -> &'static str {
    match instruction {
        Instruction::Add(_) => "ADD",
        Instruction::Arg(_) => "ARG",
        Instruction::Cmd(_) => "CMD",
        Instruction::Copy(_) => "COPY",
        Instruction::Entrypoint(_) => "ENTRYPOINT",
        Instruction::Env(_) => "ENV",
        Instruction::Expose(_) => "EXPOSE",
        Instruction::From(_) => "FROM",
        Instruction::Healthcheck(_) => "HEALTHCHECK",
        Instruction::Label(_) => "LABEL",
        Instruction::Maintainer(_) => "MAINTAINER",
        Instruction::Onbuild(_) => "ONBUILD",
        Instruction::Run(_) => "RUN",
        Instruction::Shell(_) => "SHELL",
        Instruction::Stopsignal(_) => "STOPSIGNAL",
        Instruction::User(_) => "USER",
        Instruction::Volume(_) => "VOLUME",
        Instruction::Workdir(_) => "WORKDIR",
        _ => "this instruction",
    }
}

fn start(instruction: &Instruction<'_>) -> usize {
    let keyword = match instruction {
        Instruction::Add(it) => &it.add,
        Instruction::Arg(it) => &it.arg,
        Instruction::Cmd(it) => &it.cmd,
        Instruction::Copy(it) => &it.copy,
        Instruction::Entrypoint(it) => &it.entrypoint,
        Instruction::Env(it) => &it.env,
        Instruction::Expose(it) => &it.expose,
        Instruction::From(it) => &it.from,
        Instruction::Healthcheck(it) => &it.healthcheck,
        Instruction::Label(it) => &it.label,
        Instruction::Maintainer(it) => &it.maintainer,
        Instruction::Onbuild(it) => &it.onbuild,
        Instruction::Run(it) => &it.run,
        Instruction::Shell(it) => &it.shell,
        Instruction::Stopsignal(it) => &it.stopsignal,
        Instruction::User(it) => &it.user,
        Instruction::Volume(it) => &it.volume,
        Instruction::Workdir(it) => &it.workdir,
        _ => return 0,
    };
    keyword.span.start
}

#[cfg(test)]
mod tests;
