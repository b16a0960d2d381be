//! Follows the steps of a recipe.
//!
//! ```text
//! base ──▶ tree, config ──▶ step ──▶ step ──▶ … ──▶ image ──▶ template
//!                            │ a program: the image so far, booted; what it changed is a layer, which
//!                            └ is merged into the tree, and kept by the step's key
//! ```
//!
//! A step's key is that of what it runs on, and of the step. Whatever fails, the store has neither a
//! template nor a layer of the failed step.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ironclaw_host::{regular_file, untrusted};
use ironclaw_store::Sha256Digest;
use sha2::{Digest as _, Sha256};

use crate::debian::{BootFiles, BuildSpec, read_program};
use crate::erofs::{self, ErofsError};
use crate::error::TemplateError;
use crate::guests::{Guests, Program};
use crate::hash::TemplateHash;
use crate::layer::{Limits, Merge};
use crate::links::Reference;
use crate::manifest::{Manifest, RootDisk};
use crate::name::TemplateName;
use crate::oci::{
    Expected, LayerStore, Opened, RegistryAccess, RootBuilder, RootStep, SourceError, StoredLayer,
};
use crate::recipe::{
    Action, Base, Build, Left, Planned, Recipe, Step as RecipeStep, StepError, StepFailure,
};
use crate::root_origin::{ImageConfig, RootOrigin};
use crate::rooted::STEPS;
use crate::step::Step;
use crate::step_cache::{StepCache, StepKey};
use crate::store::TemplateStore;
use crate::template::Template;
use crate::tree::{Child, FileTree, Kind, NodeId};
use crate::warm::Warm;
use crate::write::{Image, write_boot, write_manifest};

/// What the guest of a step says about itself, in its own `/etc`: the agent's, and no change of the step.
const IDENTITY_FILES: [&[u8]; 3] = [b"hostname", b"hosts", b"machine-id"];
/// The archive of what a program changed, in the directory where a template is made.
const CHANGES: &str = "changes";

impl TemplateStore {
    /// Builds a template by the steps of `recipe`, and gives it `name`, or else makes it the default. Kernel and agent are
    /// those of `spec`; `guests` runs the programs of steps.
    ///
    /// Blocks for as long as that takes. Another build may go on meanwhile.
    ///
    /// # Errors
    /// As for [`build_from`](Self::build_from), and [`TemplateError::Step`] with the step that failed.
    /// The store has what it had before then, and the layers of the steps before.
    pub fn build_recipe(
        &self,
        name: Option<&TemplateName>,
        spec: &BuildSpec,
        recipe: &Recipe,
        guests: &mut dyn Guests,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        let agent = read_program(&spec.agent)?;
        let boot = {
            let _lock = self.lock(|| progress(Step::Waiting))?;
            self.boot_files(spec, agent, progress)?
        };
        let staging = self.stage()?;
        write_boot(&boot.content(), staging.path())?;
        let layers = self.layers()?;
        let kitchen = Kitchen {
            store: self,
            boot: &boot,
            directory: staging.path(),
            layers: layers.clone(),
            steps: StepCache::open(&self.root().join(STEPS))?,
            max_root_bytes: spec.max_root_bytes,
            registry: &spec.registry,
        };
        let made = kitchen.follow(recipe, guests, progress)?;
        let mut warm = (!made.warm.is_empty()).then(|| Warm::new(made.warm));
        if warm.is_some() {
            progress(Step::Warming);
            let template = kitchen.template(made.root.clone(), warm.clone())?;
            let memory = guests.warm(&template).map_err(TemplateError::Warm)?;
            if let Some(warm) = &mut warm {
                warm.memory = Some(memory);
            }
        }
        progress(Step::Publishing);
        let manifest = kitchen.manifest(made.root, warm)?;
        if manifest.root_disk.is_some() {
            let image = staging.path().join(Template::ROOT_DISK);
            let synced = File::open(&image).and_then(|file| file.sync_all());
            synced.map_err(TemplateError::io("sync", &image))?;
        }
        let _lock = self.lock(|| progress(Step::Waiting))?;
        let template = self.publish(staging, manifest.hash)?;
        let reference = name.cloned().map_or(Reference::Default, Reference::Name);
        self.point(&reference, template.hash())?;
        self.sweep_layers(&layers)?;
        Ok(template)
    }
}

/// A template's root, and where it came from.
type Root = Option<(RootDisk, RootOrigin)>;

/// The result of all steps.
struct Made {
    root: Root,
    warm: Vec<Vec<String>>,
    /// While the image is read, its layers stay.
    _pins: Vec<StoredLayer>,
}

/// What steps are followed with.
struct Kitchen<'a> {
    store: &'a TemplateStore,
    boot: &'a BootFiles,
    /// Where the template is made.
    directory: &'a Path,
    layers: LayerStore,
    steps: StepCache,
    max_root_bytes: u64,
    registry: &'a RegistryAccess,
}

impl Kitchen<'_> {
    fn follow(
        &self,
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
        let opened = self.open(&recipe.base, progress)?;
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
            kitchen: self,
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
        let disk = self.write_root(&build.tree)?;
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

    /// Writes the image of a tree, in the place of another one.
    fn write_root(&self, tree: &FileTree) -> Result<RootDisk, TemplateError> {
        let path = self.directory.join(Template::ROOT_DISK);
        remove(&path)?;
        let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, new_file(&path)?));
        let written = erofs::write_within(tree, &mut out, self.max_root_bytes);
        let written = written.map_err(SourceError::Image)?;
        let (digest, mut file) = out.finish();
        let flushed = file.flush().map_err(ErofsError::Write);
        flushed.map_err(SourceError::Image)?;
        Ok(RootDisk {
            sha256: digest,
            size: written.bytes,
        })
    }

    /// Finds the files that the recipe begins with.
    fn open(&self, base: &Base, progress: &mut dyn FnMut(Step)) -> Result<Opened, TemplateError> {
        let nothing = |tree| Opened {
            config: ImageConfig::default(),
            digest: None,
            layers: Vec::new(),
            tree,
            pins: Vec::new(),
        };
        match base {
            Base::Scratch => Ok(nothing(FileTree::new())),
            Base::Minimal => {
                let tree = self.boot.minimal();
                let path = self.directory.join(Template::ROOT_DISK);
                Ok(nothing(tree.map_err(TemplateError::io("make", &path))?))
            }
            Base::Template(hash) => self.of_template(hash),
            Base::Source(source) => {
                let builder = RootBuilder::new(self.layers.clone(), self.max_root_bytes)
                    .with_access(self.registry.clone());
                progress(Step::Root(RootStep::Reading));
                Ok(builder.open(source, &mut |step| progress(Step::Root(step)))?)
            }
        }
    }

    fn of_template(&self, hash: &TemplateHash) -> Result<Opened, TemplateError> {
        let bad = |reason: String| TemplateError::Base {
            hash: *hash,
            reason,
        };
        let template = self.store.load(hash)?;
        let Some(path) = template.root_disk() else {
            let reason = "its root is in memory; `minimal` begins with the same files";
            return Err(bad(reason.to_owned()));
        };
        let file = regular_file::open(path).map_err(TemplateError::io("open", path))?;
        let tree = erofs::open(&Arc::new(file)).map_err(|error| bad(error.to_string()))?;
        let origin = template.manifest().root_origin.clone();
        let origin = origin.unwrap_or_default();
        Ok(Opened {
            config: origin.config,
            digest: origin.digest,
            // Its files are in the other image.
            layers: Vec::new(),
            tree,
            pins: Vec::new(),
        })
    }

    /// Writes the manifest of a template with such a root.
    fn manifest(&self, root: Root, warm: Option<Warm>) -> Result<Manifest, TemplateError> {
        let path = self.directory.join(Template::MANIFEST);
        remove(&path)?;
        let mut content = self.boot.content();
        content.warm = warm;
        if let Some((disk, origin)) = root {
            content.root_disk = Some(Image::Made(disk));
            content.root_origin = Some(origin);
        }
        write_manifest(content, self.directory)
    }

    /// Returns the unfinished template, for a guest of it.
    fn template(&self, root: Root, warm: Option<Warm>) -> Result<Template, TemplateError> {
        let manifest = self.manifest(root, warm)?;
        Template::load(self.directory, &manifest.hash)
    }
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
        context: Option<&crate::recipe::Context>,
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

/// The files of a guest's identity as the image has them.
struct IdentityFiles(Vec<(&'static [u8], Option<Child>)>);

impl IdentityFiles {
    fn directory(tree: &FileTree) -> Option<NodeId> {
        let etc = tree.resolve(b"/etc").ok()?;
        tree.children(etc).map(|_| etc)
    }

    fn of(tree: &FileTree) -> Self {
        let etc = Self::directory(tree).and_then(|etc| tree.children(etc));
        let files = IDENTITY_FILES.map(|name| (name, etc.and_then(|etc| etc.get(name)).copied()));
        Self(files.into())
    }

    /// Undoes what the guest of a step did to them.
    fn put_back(self, tree: &mut FileTree) {
        let Some(etc) = Self::directory(tree) else {
            return;
        };
        for (name, before) in self.0 {
            match before {
                None => {
                    // One that the step made a directory of is the step's own.
                    let is_file = |id| matches!(tree.node(id).kind, Kind::File(_));
                    if tree.child(etc, name).is_some_and(is_file) {
                        tree.remove(etc, name);
                    }
                }
                Some(child) if tree.children(child.node).is_none() => {
                    // A file of the tree's own: it can't fail.
                    let _ = tree.link_of(etc, name, child.node, child.layer);
                }
                Some(_) => {}
            }
        }
    }
}

fn new_file(path: &Path) -> Result<File, TemplateError> {
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .map_err(TemplateError::io("create", path))
}

fn remove(path: &Path) -> Result<(), TemplateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TemplateError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Hashes what is written through it.
struct Hashing<W> {
    out: W,
    hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    fn new(out: W) -> Self {
        let hasher = Sha256::new();
        Self { out, hasher }
    }

    fn digest(self) -> Sha256Digest {
        self.finish().0
    }

    fn finish(self) -> (Sha256Digest, W) {
        let digest: [u8; 32] = self.hasher.finalize().into();
        (digest.into(), self.out)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
