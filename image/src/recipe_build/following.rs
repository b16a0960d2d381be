//! Follows steps one after the other.

use std::io::{self, Seek as _};
use std::sync::Arc;

use ironclaw_host::untrusted;
use ironclaw_store::Sha256Digest;

use super::hashing::Hashing;
use super::identity_files::IdentityFiles;
use super::kitchen::{Kitchen, Root, new_file, remove};
use crate::erofs;
use crate::error::TemplateError;
use crate::guests::{Guests, Program};
use crate::layer::{Limits, Merge};
use crate::oci::{Expected, Opened, RootStep, SourceError, StoredLayer};
use crate::recipe::{
    Action, Base, Build, Context, Left, Planned, Recipe, Step as RecipeStep, StepError, StepFailure,
};
use crate::root_origin::RootOrigin;
use crate::step::Step;
use crate::step_cache::StepKey;

/// The archive of what a program changed, in the directory where a template is made.
const CHANGES: &str = "changes";

/// The result of all steps.
pub(super) struct Made {
    pub(super) root: Root,
    pub(super) warm: Vec<Vec<String>>,
    /// While the image is read, its layers stay.
    _pins: Vec<StoredLayer>,
}

/// Follows the steps of a recipe.
pub(super) fn follow(
    kitchen: &Kitchen<'_>,
    recipe: &Recipe,
    guests: &mut dyn Guests,
    progress: &mut dyn FnMut(Step),
) -> Result<Made, TemplateError> {
    if recipe.base == Base::Minimal && !recipe.changes_root() {
        // Its root is the initramfs.
        let warm = recipe.steps.iter().filter_map(|it| match &it.step.action {
            Action::Warm(argv) => Some(argv.clone()),
            _ => None,
        });
        return Ok(Made {
            root: None,
            warm: warm.collect(),
            _pins: Vec::new(),
        });
    }
    let file = recipe.dockerfile.as_ref().map(|file| file.name.clone());
    let opened = kitchen.open(&recipe.base, progress)?;
    let planned = recipe.planned(&opened.config);
    let planned = planned.map_err(|source| TemplateError::Dockerfile {
        file: file.clone().unwrap_or_default(),
        source,
    })?;
    let Opened {
        config,
        digest,
        layers,
        tree,
        pins,
    } = opened;
    let mut following = Following {
        kitchen,
        build: Build::new(tree, config, None),
        pins,
        layers,
        key: None,
        warm: Vec::new(),
        base: &recipe.base,
        last_run: last_run(&planned),
    };
    let of = planned.len();
    for (index, planned) in planned.iter().enumerate() {
        let number = index + 1;
        let mut tell = |is_cached| {
            progress(Step::Following {
                number,
                of,
                text: planned.step.text.clone(),
                is_cached,
            });
        };
        let done = following.step(index, planned, guests, &mut tell);
        done.map_err(|error| match error {
            Failed::Step(reason) => TemplateError::Step {
                file: planned.step.line.and(file.clone()),
                step: Box::new(StepError {
                    line: planned.step.line,
                    text: planned.step.text.clone(),
                    reason,
                }),
            },
            Failed::Other(error) => error,
        })?;
    }
    let Following {
        build,
        pins,
        layers,
        warm,
        ..
    } = following;
    progress(Step::Root(RootStep::Writing {
        files: build.tree.len(),
    }));
    let disk = kitchen.write_root(&build.tree)?;
    let origin = RootOrigin {
        source: untrusted::line(&recipe.base.to_string()),
        digest,
        layers,
        steps: planned
            .iter()
            .map(|it| untrusted::line(&it.step.text))
            .collect(),
        config: build.config,
    };
    Ok(Made {
        root: Some((disk, origin)),
        warm,
        _pins: pins,
    })
}

/// The index of the last step that runs a program.
fn last_run(planned: &[Planned]) -> Option<usize> {
    let is_run = |it: &Planned| matches!(it.step.action, Action::Run { .. });
    planned.iter().rposition(is_run)
}

enum Failed {
    Step(StepFailure),
    Other(TemplateError),
}

impl<E: Into<TemplateError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Steps that are being followed.
struct Following<'a> {
    kitchen: &'a Kitchen<'a>,
    build: Build,
    pins: Vec<StoredLayer>,
    layers: Vec<Sha256Digest>,
    /// The key of the files so far, once it is known.
    key: Option<StepKey>,
    warm: Vec<Vec<String>>,
    base: &'a Base,
    last_run: Option<usize>,
}

impl Following<'_> {
    fn step(
        &mut self,
        index: usize,
        planned: &Planned,
        guests: &mut dyn Guests,
        tell: &mut dyn FnMut(bool),
    ) -> Result<(), Failed> {
        let Planned { step, context } = planned;
        // Keys are for the programs that follow: nobody reads files for them in vain.
        let is_keyed = self.last_run.is_some_and(|last| index <= last);
        let before = if is_keyed { Some(self.key()?) } else { None };
        self.build.set_context(context.clone());
        let run = matches!(step.action, Action::Run { .. });
        if !run {
            tell(false);
        }
        let left = self
            .build
            .apply(step)
            .map_err(|error| Failed::Step(error.reason))?;
        match left {
            Left::Nothing => {
                if let Some(before) = before {
                    self.key = Some(self.key_after(before, step, context.as_deref())?);
                }
            }
            Left::Warm(argv) => self.warm.push(argv),
            Left::Run { argv, env } => {
                let config = self.build.config.clone();
                let program = Program::new(argv, env, config);
                let key = run_key(before, &program);
                self.run(key, &program, guests, tell)?;
                self.key = Some(key);
            }
        }
        Ok(())
    }

    /// Returns the key of the files so far.
    fn key(&mut self) -> Result<StepKey, TemplateError> {
        if let Some(key) = self.key {
            return Ok(key);
        }
        let key = match self.base {
            Base::Source(_) if !self.layers.is_empty() => {
                let layers: Vec<_> = self.layers.iter().map(|it| &it.as_bytes()[..]).collect();
                StepKey::of(&layers)
            }
            // Equal trees make equal images.
            _ => {
                let mut hashing = Hashing::new(io::sink());
                let written = erofs::write_within(
                    &self.build.tree,
                    &mut hashing,
                    self.kitchen.max_root_bytes,
                );
                written.map_err(SourceError::Image)?;
                StepKey::of(&[hashing.digest().as_bytes()])
            }
        };
        self.key = Some(key);
        Ok(key)
    }

    /// Returns the key after a step without a program.
    fn key_after(
        &self,
        before: StepKey,
        step: &RecipeStep,
        context: Option<&Context>,
    ) -> Result<StepKey, Failed> {
        Ok(match (&step.action, context) {
            (Action::Copy(copy), Some(context)) => {
                let files = context.digest(copy);
                let files = files.map_err(|error| Failed::Step(error.into()))?;
                StepKey::of(&[before.as_bytes(), b"copy", files.as_bytes()])
            }
            (Action::Workdir(path), _) => {
                StepKey::of(&[before.as_bytes(), b"workdir", path.as_bytes()])
            }
            // What changes no file is in the key of a program itself, as far as that sees it.
            _ => before,
        })
    }

    /// Runs a program, unless that was done before, and takes what it changed.
    fn run(
        &mut self,
        key: StepKey,
        program: &Program,
        guests: &mut dyn Guests,
        tell: &mut dyn FnMut(bool),
    ) -> Result<(), Failed> {
        let kitchen = self.kitchen;
        if let Some(digest) = kitchen.steps.get(key)?
            && let Some(layer) = kitchen.layers.get(digest)?
        {
            tell(true);
            return self.merge(digest, layer);
        }
        tell(false);
        let disk = kitchen.write_root(&self.build.tree)?;
        let origin = RootOrigin {
            config: self.build.config.clone(),
            ..RootOrigin::default()
        };
        let template = kitchen.template(Some((disk, origin)), None)?;
        let path = kitchen.directory.join(CHANGES);
        remove(&path)?;
        let mut changes = new_file(&path)?;
        let ran = guests.run(&template, program, &mut changes);
        ran.map_err(|error| Failed::Step(StepFailure::Guest(error)))?;
        changes.rewind().map_err(TemplateError::io("read", &path))?;
        let put = kitchen.layers.put(
            changes,
            "of this step",
            Expected::default(),
            kitchen.max_root_bytes,
        );
        remove(&path)?;
        let (digest, layer) = put.map_err(|error| match error {
            SourceError::Store(error) => Failed::Other(error.into()),
            error => Failed::Step(StepFailure::Changes(Box::new(error))),
        })?;
        if let Err(error) = self.merge(digest, layer) {
            // Nothing goes on from it.
            kitchen.layers.discard(digest)?;
            return Err(error);
        }
        Ok(kitchen.steps.put(key, digest)?)
    }

    fn merge(&mut self, digest: Sha256Digest, layer: StoredLayer) -> Result<(), Failed> {
        let tree = std::mem::take(&mut self.build.tree);
        let identity = IdentityFiles::of(&tree);
        let mut merge = Merge::onto(tree, Limits::default());
        let applied = merge.apply(&digest.to_string(), Arc::clone(&layer.archive));
        applied.map_err(|error| Failed::Step(StepFailure::Changes(Box::new(error.into()))))?;
        self.build.tree = merge.into_tree();
        identity.put_back(&mut self.build.tree);
        self.layers.push(digest);
        self.pins.push(layer);
        Ok(())
    }
}

/// The key of the files that a program leaves: of what it runs on, and of what it sees.
fn run_key(before: Option<StepKey>, program: &Program) -> StepKey {
    let Program { argv, env, config } = program;
    let seen = (argv, env, &config.env, &config.user, &config.working_dir);
    // Lists of texts are always JSON.
    let seen = serde_json::to_vec(&seen).unwrap_or_default();
    let before = before.map(|key| *<&[u8; 32]>::try_from(key.as_bytes()).unwrap_or(&[0; 32]));
    StepKey::of(&[&before.unwrap_or_default(), b"run", &seen])
}
