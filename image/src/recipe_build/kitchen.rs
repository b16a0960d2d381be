//! Where a template is made, and with what.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ironclaw_host::regular_file;

use super::hashing::Hashing;
use crate::debian::BootFiles;
use crate::erofs::{self, ErofsError};
use crate::error::TemplateError;
use crate::hash::TemplateHash;
use crate::manifest::{Manifest, RootDisk};
use crate::oci::{LayerStore, Opened, RegistryAccess, RootBuilder, RootStep, SourceError};
use crate::recipe::Base;
use crate::root_origin::{ImageConfig, RootOrigin};
use crate::step::Step;
use crate::step_cache::StepCache;
use crate::store::TemplateStore;
use crate::template::Template;
use crate::tree::FileTree;
use crate::warm::Warm;
use crate::write::{Image, write_manifest};

/// A template's root, and where it came from.
pub(super) type Root = Option<(RootDisk, RootOrigin)>;

/// What steps are followed with.
pub(super) struct Kitchen<'a> {
    pub(super) store: &'a TemplateStore,
    pub(super) boot: &'a BootFiles,
    /// Where the template is made.
    pub(super) directory: &'a Path,
    pub(super) layers: LayerStore,
    pub(super) steps: StepCache,
    pub(super) max_root_bytes: u64,
    pub(super) registry: &'a RegistryAccess,
}

impl Kitchen<'_> {
    /// Writes the image of a tree, in the place of another one.
    pub(super) fn write_root(&self, tree: &FileTree) -> Result<RootDisk, TemplateError> {
        let path = self.directory.join(Template::ROOT_DISK);
        remove(&path)?;
        let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, new_file(&path)?));
        let written = erofs::write_within(tree, &mut out, self.max_root_bytes);
        let failed = SourceError::of_image(&path);
        let written = written.map_err(&failed)?;
        let (digest, mut file) = out.finish();
        let flushed = file.flush().map_err(ErofsError::Write);
        flushed.map_err(failed)?;
        Ok(RootDisk {
            sha256: digest,
            size: written.bytes,
        })
    }

    /// Finds the files that the recipe begins with.
    pub(super) fn open(
        &self,
        base: &Base,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Opened, TemplateError> {
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
    pub(super) fn manifest(
        &self,
        root: Root,
        warm: Option<Warm>,
    ) -> Result<Manifest, TemplateError> {
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
    pub(super) fn template(
        &self,
        root: Root,
        warm: Option<Warm>,
    ) -> Result<Template, TemplateError> {
        let manifest = self.manifest(root, warm)?;
        Template::load(self.directory, &manifest.hash)
    }
}

/// Creates a file that is nobody else's.
pub(super) fn new_file(path: &Path) -> Result<File, TemplateError> {
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .map_err(TemplateError::io("create", path))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), TemplateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TemplateError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
