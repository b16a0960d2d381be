//! Dockerfiles, as far as steps go: one stage, no features of BuildKit but here-documents.
//!
//! Instructions are described at <https://docs.docker.com/reference/dockerfile/>. One that is not
//! supported is an error with its line: an image that lacks a step silently is worse than none.

mod copies;
mod error;
mod here_document;
mod instruction;
mod scope;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use parse_dockerfile::{Command, Instruction, UnescapedString};

use super::absolute::absolute;
use super::step::{Action, CopySource, Step};
use copies::{Files, refuse_unless_file};
use error::{MAX_DOCKERFILE, MAX_INSTRUCTIONS, malformed, unsupported};
use here_document::refuse_later_documents;
use instruction::keyword;
use scope::Scope;
use text::Text;

pub use error::DockerfileError;

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

/// A Dockerfile.
#[derive(Debug)]
pub struct Dockerfile<'a> {
    text: Text<'a>,
    parsed: parse_dockerfile::Dockerfile<'a>,
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
            text: Text { text, escape },
            parsed,
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
            let line = self.text.line(instruction);
            match instruction {
                Instruction::Arg(arg) => {
                    let global = &self.global;
                    let lookup = |name: &str| global.get(name).cloned();
                    let declared = self.text.declared(&arg.arguments, line, &lookup)?;
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
                    self.from = self.text.word(&from.image, line, &lookup)?;
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
            let line = self.text.line(instruction);
            if let Instruction::Arg(arg) = instruction {
                let lookup = |name: &str| scope.get(name);
                for (name, default) in self.text.declared(&arg.arguments, line, &lookup)? {
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
                text: self.text.shown(instruction),
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
            self.text.word(text, line, &|name| scope.get(name))
        };
        Ok(Some(match instruction {
            Instruction::Run(run) => {
                if let Some(option) = run.options.first() {
                    return Err(unsupported(line, &format!("RUN --{}", option.name.value)));
                }
                let argv = match (&run.arguments, run.here_docs.as_slice()) {
                    (arguments, []) => scope.argv(&self.text, arguments),
                    (Command::Shell(command), [document]) => {
                        scope.in_shell(self.text.script(run, command, document, line)?)
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
                Action::Copy(files.copy(&self.text, line, scope)?)
            }
            Instruction::Add(add) => {
                let files = Files {
                    keyword: "ADD",
                    options: &add.options,
                    sources: &add.src,
                    to: &add.dest,
                };
                let copy = files.copy(&self.text, line, scope)?;
                for source in &copy.sources {
                    if let CopySource::Context(path) = source {
                        refuse_unless_file(path, line)?;
                    }
                }
                Action::Copy(copy)
            }
            Instruction::Env(env) => {
                let lookup = |name: &str| scope.get(name);
                let pairs = self.text.pairs(&env.arguments, "ENV", line, &lookup)?;
                scope.env.extend(pairs.iter().cloned());
                Action::Env(pairs)
            }
            Instruction::Label(label) => {
                let lookup = |name: &str| scope.get(name);
                Action::Label(self.text.pairs(&label.arguments, "LABEL", line, &lookup)?)
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
            Instruction::Cmd(cmd) => Action::Cmd(scope.argv(&self.text, &cmd.arguments)),
            Instruction::Entrypoint(entrypoint) => {
                Action::Entrypoint(scope.argv(&self.text, &entrypoint.arguments))
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
}

#[cfg(test)]
mod tests;
