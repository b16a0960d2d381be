//! Follows the steps that need no VM.

use std::sync::Arc;

use thiserror::Error;

use super::context::{Context, ContextError};
use super::copy_into::make_directory;
use super::owner::{Owner, OwnerError};
use super::{Action, Step};
use crate::guest_failure::GuestFailure;
use crate::oci::{ImageConfig, SourceError};
use crate::tree::{FileTree, Metadata};

/// Limit of the variables and labels of an image.
const MAX_PAIRS: usize = 4096;

/// The reason why a step failed.
#[derive(Debug, Error)]
#[error("{}{text}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct StepError {
    /// Its line in the Dockerfile.
    pub line: Option<usize>,
    /// The step.
    pub text: String,
    /// The reason.
    #[source]
    pub reason: StepFailure,
}

/// What made a step fail.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StepFailure {
    /// Files of the context can't be copied.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The image does not know the owner of copied files.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// There are files to copy, and no context.
    #[error("there is no context to copy from")]
    NoContext,
    /// The directory of programs can't be made.
    #[error("can't make {path} in the image: {reason}")]
    Workdir {
        /// The directory.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A guest did not run its program, or that failed.
    #[error(transparent)]
    Guest(GuestFailure),
    /// What its program changed can't be part of an image.
    #[error("what it changed can't be kept: {0}")]
    Changes(#[source] Box<SourceError>),
    /// There are too many variables or labels.
    #[error("an image has at most {MAX_PAIRS} variables and as many labels")]
    TooMany,
}

/// What is left to do of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum Left {
    /// Nothing.
    Nothing,
    /// To run a program in a VM of the image so far.
    Run {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Its variables beside those of the image.
        env: Vec<(String, String)>,
    },
    /// To run a program before the snapshot and in each clone.
    Warm(Vec<String>),
}

/// Steps on their way to an image.
#[derive(Debug)]
pub struct Build {
    /// The files so far.
    pub tree: FileTree,
    /// What the image says of its programs so far.
    pub config: ImageConfig,
    context: Option<Arc<Context>>,
    /// Whether a step set the default program: an entry point keeps it then.
    has_cmd: bool,
}

impl Build {
    /// Begins with an image.
    #[must_use]
    pub fn new(tree: FileTree, config: ImageConfig, context: Option<Arc<Context>>) -> Self {
        Self {
            tree,
            config,
            context,
            has_cmd: false,
        }
    }

    /// Copies from another directory from now on.
    #[cfg(feature = "debian")]
    pub(crate) fn set_context(&mut self, context: Option<Arc<Context>>) {
        self.context = context;
    }

    /// Follows a step, as far as that needs no VM, and returns what is left.
    ///
    /// # Errors
    /// [`StepError`] with the step; the image is of no use then.
    pub fn apply(&mut self, step: &Step) -> Result<Left, StepError> {
        self.perform(&step.action).map_err(|reason| StepError {
            line: step.line,
            text: step.text.clone(),
            reason,
        })
    }

    fn perform(&mut self, action: &Action) -> Result<Left, StepFailure> {
        match action {
            Action::Run { argv, env } => {
                return Ok(Left::Run {
                    argv: argv.clone(),
                    env: env.clone(),
                });
            }
            Action::Warm(argv) => return Ok(Left::Warm(argv.clone())),
            Action::Copy(copy) => {
                let context = self.context.as_ref().ok_or(StepFailure::NoContext)?;
                let owner = match &copy.owner {
                    Some(owner) => Owner::find(&self.tree, owner)?,
                    None => Owner::default(),
                };
                context.copy_into(&mut self.tree, copy, owner)?;
            }
            Action::Env(pairs) => {
                for (name, value) in pairs {
                    let prefix = format!("{name}=");
                    self.config.env.retain(|it| !it.starts_with(&prefix));
                    self.config.env.push(prefix + value);
                }
            }
            Action::Label(pairs) => self.config.labels.extend(pairs.iter().cloned()),
            Action::User(user) => self.config.user.clone_from(user),
            Action::Workdir(path) => {
                make_directory(&mut self.tree, path.as_bytes(), &Metadata::of_mode(0o755))
                    .map_err(|reason| StepFailure::Workdir {
                        path: path.clone(),
                        reason,
                    })?;
                self.config.working_dir.clone_from(path);
            }
            Action::Cmd(argv) => {
                self.config.cmd.clone_from(argv);
                self.has_cmd = true;
            }
            Action::Entrypoint(argv) => {
                self.config.entrypoint.clone_from(argv);
                if !self.has_cmd {
                    self.config.cmd.clear();
                }
            }
            Action::StopSignal(signal) => self.config.stop_signal.clone_from(signal),
            // Nothing here opens ports by what an image says.
            Action::Expose(_) => {}
        }
        if self.config.env.len().max(self.config.labels.len()) > MAX_PAIRS {
            return Err(StepFailure::TooMany);
        }
        Ok(Left::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::recipe::Dockerfile;

    fn built(
        text: &str,
        base: ImageConfig,
    ) -> Result<(ImageConfig, FileTree, Vec<Left>), StepError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "text").unwrap();
        let context = Context::open(directory.path()).unwrap();
        let args = BTreeMap::new();
        let dockerfile = Dockerfile::parse(text, &args).unwrap();
        let mut build = Build::new(FileTree::new(), base, Some(Arc::new(context)));
        let mut left = Vec::new();
        for step in dockerfile.steps(&[], "/").unwrap() {
            match build.apply(&step)? {
                Left::Nothing => {}
                other => left.push(other),
            }
        }
        Ok((build.config, build.tree, left))
    }

    fn base() -> ImageConfig {
        ImageConfig {
            env: vec!["A=old".to_owned(), "AB=kept".to_owned()],
            entrypoint: vec!["/old".to_owned()],
            cmd: vec!["old".to_owned()],
            ..ImageConfig::default()
        }
    }

    #[test]
    fn steps_change_what_the_image_says_and_has() {
        let text = "FROM x\nENV A=new\nUSER me:us\nWORKDIR /w/d\nLABEL a=b\nSTOPSIGNAL 9\nCOPY a .\nCMD [\"c\"]\nRUN make\n";
        let (config, tree, left) = built(text, base()).unwrap();
        assert_eq!(config.env, ["AB=kept", "A=new"]);
        assert_eq!(config.user, "me:us");
        assert_eq!(config.working_dir, "/w/d");
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.stop_signal, "9");
        assert_eq!(config.cmd, ["c"]);
        assert_eq!(config.entrypoint, ["/old"]);
        tree.resolve(b"/w/d/a").unwrap();
        let run = Left::Run {
            argv: ["/bin/sh", "-c", "make"].map(str::to_owned).to_vec(),
            env: Vec::new(),
        };
        assert_eq!(left, [run]);
    }

    #[test]
    fn entry_point_forgets_the_base_images_program_alone() {
        let (config, ..) = built("FROM x\nENTRYPOINT [\"/e\"]\n", base()).unwrap();
        assert_eq!((config.cmd.len(), &*config.entrypoint[0]), (0, "/e"));
        let text = "FROM x\nCMD [\"c\"]\nENTRYPOINT [\"/e\"]\n";
        let (config, ..) = built(text, base()).unwrap();
        assert_eq!((&*config.cmd[0], &*config.entrypoint[0]), ("c", "/e"));
    }

    #[test]
    fn failed_step_is_told_with_its_line_text_and_reason() {
        let error = built("FROM x\n\nCOPY nothing /\n", base()).unwrap_err();
        assert_eq!(error.to_string(), "line 3: COPY nothing /");
        let StepFailure::Context(ContextError::NotFound { .. }) = error.reason else {
            panic!("{:?}", error.reason);
        };
        let error = built("FROM x\nCOPY --chown=me a /\n", base()).unwrap_err();
        assert!(matches!(error.reason, StepFailure::Owner(_)));
    }
}
