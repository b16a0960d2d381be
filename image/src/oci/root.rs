//! From a source to the image of a root.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_host::{regular_file, untrusted};
use ironclaw_store::Sha256Digest;

use super::access::RegistryAccess;
use super::docker_archive;
use super::error::SourceError;
use super::host_tree;
use super::layer_store::{Expected, LayerStore, StoredLayer};
use super::layout;
use super::manifest::{Image, Layer};
use super::place::Place;
#[cfg(feature = "registry")]
use super::registry::Repository;
#[cfg(not(feature = "registry"))]
use super::registry_error::RegistryError;
use super::source::RootSource;
use super::suite::{self, Installation};
#[cfg(feature = "registry")]
use super::watched::Watched;
use crate::erofs::{self, ErofsError, Written};
use crate::layer::{Limits, Merge};
use crate::root_origin::ImageConfig;
use crate::tree::{FileTree, Metadata};

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootStep {
    /// Reads what the source is.
    Reading,
    /// Pulls a layer from a registry, and unpacks it meanwhile.
    Pulling {
        /// Its number, from 1.
        layer: usize,
        /// How many there are.
        of: usize,
        /// The bytes that came so far.
        bytes: u64,
        /// All of its bytes, if the image says how many.
        size: Option<u64>,
    },
    /// Installs packages.
    Installing {
        /// The suite that they are from.
        suite: String,
    },
    /// Unpacks a layer.
    Unpacking {
        /// Its number, from 1.
        layer: usize,
        /// How many there are.
        of: usize,
    },
    /// Indexes a layer.
    Merging {
        /// Its number, from 1.
        layer: usize,
        /// How many there are.
        of: usize,
    },
    /// Writes the root's image.
    Writing {
        /// The number of files in it.
        files: usize,
    },
}

impl fmt::Display for RootStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading => f.write_str("reading the source"),
            Self::Pulling {
                layer,
                of,
                bytes,
                size,
            } => {
                write!(f, "pulling layer {layer} of {of}")?;
                match (bytes, size) {
                    (0, None) => Ok(()),
                    (0, Some(size)) => write!(f, ", {} MiB", size >> 20),
                    (bytes, None) => write!(f, ": {} MiB", bytes >> 20),
                    (bytes, Some(size)) => {
                        write!(f, ": {} of {} MiB", bytes >> 20, size.div_ceil(1 << 20))
                    }
                }
            }
            Self::Installing { suite } => write!(f, "installing packages of {suite}"),
            Self::Unpacking { layer, of } => write!(f, "unpacking layer {layer} of {of}"),
            Self::Merging { layer, of } => write!(f, "applying layer {layer} of {of}"),
            Self::Writing { files } => write!(f, "writing an image of {files} files"),
        }
    }
}

/// The image of a root, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RootImage {
    /// What the image says about its programs; nothing, if the source is no image.
    pub config: ImageConfig,
    /// The digest of the image's manifest, if the source is an image.
    pub digest: Option<Sha256Digest>,
    /// The digests of its layers, unpacked, from the lowest on.
    pub layers: Vec<Sha256Digest>,
    /// The size of the root's image in bytes.
    pub bytes: u64,
    /// The number of files in it.
    pub files: u64,
}

/// Makes images of roots.
#[derive(Debug)]
pub struct RootBuilder {
    layers: LayerStore,
    access: RegistryAccess,
    limits: Limits,
    max_bytes: u64,
}

/// Where the layers of an image are.
enum Origin<'a> {
    Files(&'a Place),
    #[cfg(feature = "registry")]
    Registry(&'a Repository),
}

/// What a source consists of.
pub(crate) struct Opened {
    pub(crate) config: ImageConfig,
    pub(crate) digest: Option<Sha256Digest>,
    pub(crate) layers: Vec<Sha256Digest>,
    pub(crate) tree: FileTree,
    /// While the tree is read, its layers stay.
    pub(crate) pins: Vec<StoredLayer>,
}

impl RootBuilder {
    /// Creates a builder that keeps layers in a store. Neither the image that it makes nor the layers
    /// of a source together, unpacked, may take more than `max_bytes`.
    #[must_use]
    pub fn new(layers: LayerStore, max_bytes: u64) -> Self {
        Self {
            layers,
            access: RegistryAccess::default(),
            limits: Limits::default(),
            max_bytes,
        }
    }

    /// Reaches registries as `access` says.
    #[must_use]
    pub fn with_access(mut self, access: RegistryAccess) -> Self {
        self.access = access;
        self
    }

    /// Writes the image of a source's root to a new file, `out`. Reports each step to `progress` before
    /// it begins. Takes memory by the number of files in the root, not by their sizes.
    ///
    /// # Errors
    /// [`SourceError`]; `out` may be there then, and is of no use.
    pub fn build(
        &self,
        source: &RootSource,
        out: &Path,
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<RootImage, SourceError> {
        progress(RootStep::Reading);
        let opened = self.open(source, progress)?;
        progress(RootStep::Writing {
            files: opened.tree.len(),
        });
        let written = write(&opened.tree, out, self.max_bytes)?;
        Ok(RootImage {
            config: opened.config,
            digest: opened.digest,
            layers: opened.layers,
            bytes: written.bytes,
            files: written.inodes,
        })
    }

    /// Finds the files of a source. An image's working directory is there, as container runtimes have it.
    pub(crate) fn open(
        &self,
        source: &RootSource,
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<Opened, SourceError> {
        let mut opened = self.open_source(source, progress)?;
        let directory = Path::new("/").join(&opened.config.working_dir);
        let path = directory.as_os_str().as_bytes();
        // Whatever is in the way, who begins there is told so.
        let made: Result<_, Box<dyn Error>> = opened
            .tree
            .make_directory(path, |_, _, _| Ok((Metadata::of_mode(0o755), 0)));
        if let Err(error) = made {
            tracing::debug!(error, "an image has no working directory");
        }
        Ok(opened)
    }

    fn open_source(
        &self,
        source: &RootSource,
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<Opened, SourceError> {
        match source {
            RootSource::OciLayout {
                directory,
                reference,
            } => {
                let place = Place::Directory(directory.clone());
                let image = layout::find(&place, reference.as_deref());
                let image = image.map_err(of_kind(directory, "OCI image layout"))?;
                self.merged(&Origin::Files(&place), image, progress)
            }
            RootSource::OciArchive { file, reference } => {
                let place = Place::archive(file)?;
                let image = layout::find(&place, reference.as_deref());
                let image = image.map_err(of_kind(file, "archive of an OCI image layout"))?;
                self.merged(&Origin::Files(&place), image, progress)
            }
            RootSource::DockerArchive { file, reference } => {
                let place = Place::archive(file)?;
                let image = docker_archive::find(&place, reference.as_deref());
                let image = image.map_err(of_kind(file, "archive of `docker save`"))?;
                self.merged(&Origin::Files(&place), image, progress)
            }
            #[cfg(feature = "registry")]
            RootSource::Registry(image) => {
                let repository = Repository::connect(image, &self.access)
                    .map_err(|error| SourceError::of_registry(image, error))?;
                let found = repository.find()?;
                self.merged(&Origin::Registry(&repository), found, progress)
            }
            #[cfg(not(feature = "registry"))]
            RootSource::Registry(image) => {
                Err(SourceError::of_registry(image, RegistryError::NotBuilt))
            }
            RootSource::Debian { suite, packages } => self.debian(suite, packages, progress),
            RootSource::Tar(file) => self.tar(file, progress),
            RootSource::Directory(directory) => Ok(Opened {
                config: ImageConfig::default(),
                digest: None,
                layers: Vec::new(),
                tree: host_tree::read(directory, &self.limits)?,
                pins: Vec::new(),
            }),
        }
    }

    /// Unpacks the layers of an image that are not here yet, and merges them.
    fn merged(
        &self,
        origin: &Origin<'_>,
        image: Image,
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<Opened, SourceError> {
        let of = image.layers.len();
        let mut pins = Vec::new();
        let mut left = self.max_bytes;
        for (number, layer) in image.layers.iter().enumerate() {
            let stored = match self.layers.get(layer.archive)? {
                Some(stored) => stored,
                None => self.store(origin, layer, (number + 1, of), left, progress)?,
            };
            left = left.saturating_sub(stored.archive.metadata().map_or(0, |it| it.len()));
            pins.push(stored);
        }
        let mut merge = Merge::new(self.limits.clone());
        for (number, (layer, stored)) in image.layers.iter().zip(&pins).enumerate() {
            progress(RootStep::Merging {
                layer: number + 1,
                of,
            });
            merge.apply(&layer.name(), Arc::clone(&stored.archive))?;
        }
        Ok(Opened {
            config: image.config,
            digest: Some(image.digest),
            layers: image.layers.iter().map(|layer| layer.archive).collect(),
            tree: merge.into_tree(),
            pins,
        })
    }

    /// Unpacks a layer into the store: `left` bytes at most.
    fn store(
        &self,
        origin: &Origin<'_>,
        layer: &Layer,
        (number, of): (usize, usize),
        left: u64,
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<StoredLayer, SourceError> {
        let name = layer.name();
        let expected = Expected {
            archive: Some(layer.archive),
            blob: layer.blob,
            size: layer.size,
        };
        match origin {
            Origin::Files(place) => {
                let step = RootStep::Unpacking { layer: number, of };
                progress(step);
                let blob = place.open(&layer.path)?;
                Ok(self.layers.put(blob, &name, expected, left)?.1)
            }
            #[cfg(feature = "registry")]
            Origin::Registry(repository) => {
                let mut blob = repository.layer(layer);
                let watched = Watched::new(&mut blob, |bytes| {
                    progress(RootStep::Pulling {
                        layer: number,
                        of,
                        bytes,
                        size: layer.size,
                    });
                });
                let put = self.layers.put(watched, &name, expected, left);
                Ok(put.map_err(|error| repository.failed(&mut blob, error))?.1)
            }
        }
    }

    fn tar(&self, path: &Path, progress: &mut dyn FnMut(RootStep)) -> Result<Opened, SourceError> {
        let file = regular_file::open(path).map_err(|source| SourceError::Read {
            path: path.to_owned(),
            source,
        })?;
        let name = untrusted::line(&path.display().to_string());
        progress(RootStep::Unpacking { layer: 1, of: 1 });
        let none = Expected::default();
        let (digest, stored) = self.layers.put(file, &name, none, self.max_bytes)?;
        self.only(&name, digest, stored, progress)
    }

    fn debian(
        &self,
        suite: &str,
        packages: &[String],
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<Opened, SourceError> {
        progress(RootStep::Installing {
            suite: suite.to_owned(),
        });
        let mut installation = Installation::start(suite::PROGRAM, suite, packages)?;
        let name = format!("debian:{suite}");
        let none = Expected::default();
        let put = self
            .layers
            .put(&mut installation, &name, none, self.max_bytes);
        // Why it failed says more than that its archive is cut off.
        if put.is_ok() {
            installation.finish(suite)?;
        }
        let (digest, stored) = put?;
        self.only(&name, digest, stored, progress)
    }

    /// What consists of one layer, and is no image.
    fn only(
        &self,
        name: &str,
        digest: Sha256Digest,
        stored: StoredLayer,
        progress: &mut dyn FnMut(RootStep),
    ) -> Result<Opened, SourceError> {
        progress(RootStep::Merging { layer: 1, of: 1 });
        let mut merge = Merge::new(self.limits.clone());
        merge.apply(name, Arc::clone(&stored.archive))?;
        Ok(Opened {
            config: ImageConfig::default(),
            digest: None,
            layers: vec![digest],
            tree: merge.into_tree(),
            pins: vec![stored],
        })
    }
}

/// An error of what should be an image of some kind, but has no such files.
pub(super) fn of_kind(path: &Path, kind: &'static str) -> impl FnOnce(SourceError) -> SourceError {
    let path = PathBuf::from(path);
    move |error| match error {
        SourceError::Read { path: file, source }
            if file.ends_with("index.json") || file.ends_with("manifest.json") =>
        {
            let name = file.strip_prefix(&path).unwrap_or(&file);
            SourceError::NotAnImage {
                reason: format!("{}: {source}", name.display()),
                path,
                kind,
            }
        }
        other => other,
    }
}

fn write(tree: &FileTree, out: &Path, max_bytes: u64) -> Result<Written, SourceError> {
    let failed = SourceError::of_image(out);
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(out).map_err(ErofsError::Write);
    let mut writer = BufWriter::with_capacity(1 << 20, file.map_err(&failed)?);
    let written = erofs::write_within(tree, &mut writer, max_bytes).map_err(&failed)?;
    writer.flush().map_err(ErofsError::Write).map_err(failed)?;
    Ok(written)
}
