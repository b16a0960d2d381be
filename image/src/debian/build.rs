//! Builds templates.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironclaw_host::mark::{self, Mark};
use ironclaw_store::Sha256Digest;

use super::boot_args::BOOT_ARGS;
use super::modules::{self, Module};
use super::packages::{Package, Workshop};
use super::{directory, initramfs, tool, vmlinux};
use crate::error::TemplateError;
use crate::file;
use crate::kept_root::Root;
use crate::kernel;
use crate::manifest::PackageVersion;
#[cfg(feature = "oci")]
use crate::oci::RegistryAccess;
use crate::step::Step;
use crate::store::TemplateStore;
use crate::template::Template;
use crate::write::{Archive, Content, Image};

/// Directory of downloaded packages in the store.
pub(crate) const CACHE: &str = ".cache";

/// Debian's metapackage of the newest cloud kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Timeout of busybox's list of applets.
const BUSYBOX_LIMIT: Duration = Duration::from_secs(30);

/// The inputs of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSpec {
    /// The path of the guest agent: a static x86-64 executable, PID 1 of the guest.
    pub agent: PathBuf,
    /// The source of the kernel and its modules.
    pub kernel: KernelSource,
    /// The source of busybox.
    pub busybox: BusyboxSource,
    /// Most bytes that the root disk may take, if there is one, and that the layers of an image may
    /// take together once they are unpacked.
    pub max_root_bytes: u64,
    /// How registries are reached, if the root comes from one.
    #[cfg(feature = "oci")]
    pub registry: RegistryAccess,
}

/// Most that a root takes, if nothing else is said.
const MAX_ROOT_BYTES: u64 = 32 << 30;

impl BuildSpec {
    /// Builds from Debian's packages.
    #[must_use]
    pub fn new(agent: impl Into<PathBuf>) -> Self {
        Self {
            agent: agent.into(),
            kernel: KernelSource::default(),
            busybox: BusyboxSource::default(),
            max_root_bytes: MAX_ROOT_BYTES,
            #[cfg(feature = "oci")]
            registry: RegistryAccess::default(),
        }
    }

    /// Reaches registries as `access` says, if the root comes from one.
    #[cfg(feature = "oci")]
    #[must_use]
    pub fn with_registry(mut self, access: RegistryAccess) -> Self {
        self.registry = access;
        self
    }
}

/// The source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSource {
    /// A Debian package, or a metapackage that depends on one.
    Package(String),
    /// Files of the host, for a host without APT.
    Files {
        /// The path of a bzImage, like `/boot/vmlinuz-*`, or of an ELF image.
        image: PathBuf,
        /// The directory of its modules, like `/lib/modules/*`.
        modules_dir: PathBuf,
    },
}

impl Default for KernelSource {
    /// Debian's newest cloud kernel: small, and with drivers for every VMM.
    fn default() -> Self {
        Self::Package(KERNEL_PACKAGE.to_owned())
    }
}

/// The source of busybox. An installed one is used only if it is named here: a template must not
/// depend on what a host happens to have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusyboxSource {
    /// A Debian package with a static busybox.
    Package(String),
    /// The path of a static executable on the host, for a host without APT.
    File(PathBuf),
}

impl Default for BusyboxSource {
    fn default() -> Self {
        Self::Package(BUSYBOX_PACKAGE.to_owned())
    }
}

impl TemplateStore {
    /// Returns the directory of downloaded packages, marked if nothing else is in it.
    fn cache(&self) -> Result<PathBuf, TemplateError> {
        let cache = self.root().join(CACHE);
        if !file::exists(&cache)? {
            directory::create(&cache)?;
        }
        let marked = || {
            let directory = mark::open(&cache)?;
            match mark::read(&directory)? {
                Mark::Bare => mark::replace(&directory),
                Mark::Ours | Mark::Foreign => Ok(()),
            }
        };
        marked().map_err(TemplateError::io("write to", &cache))?;
        Ok(cache)
    }

    /// Builds a template with a busybox in memory, names it [`minimal`](crate::TemplateName::MINIMAL), and makes
    /// that the default. Returns an existing one with the same inputs unchanged.
    ///
    /// Blocks for as long as the downloads and other builds in this store take, and then for some
    /// seconds. Reports each step to `progress` before it begins.
    ///
    /// # Errors
    /// On any error the store is unchanged, except for downloaded packages.
    pub fn build(
        &self,
        spec: &BuildSpec,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        // Read first: the most likely mistake should not cost a download.
        let agent = initramfs::read_program(&spec.agent)?;
        let _lock = self.lock(|| progress(Step::Waiting))?;
        let template = self.build_with(spec, agent, None, progress)?;
        self.point_minimal(template.hash())?;
        Ok(template)
    }

    /// Builds while the caller holds the lock, who lets something lead to the template.
    pub(crate) fn build_with(
        &self,
        spec: &BuildSpec,
        agent: Vec<u8>,
        root: Option<Root>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        let boot = self.boot_files(spec, agent, progress)?;
        let mut content = boot.content();
        if let Some(root) = &root {
            content.root_disk = root.image.as_deref().map(Image::Copied);
            content.root_origin.clone_from(&root.origin);
            content.warm.clone_from(&root.warm);
        }
        self.write(content, progress)
    }

    /// Makes the kernel and the initramfs of a template. The caller holds the lock of builds.
    pub(crate) fn boot_files(
        &self,
        spec: &BuildSpec,
        agent: Vec<u8>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<BootFiles, TemplateError> {
        let staging = self.stage()?;
        let cache = self.cache()?;
        let workshop = Workshop {
            cache: &cache,
            staging: staging.path(),
        };

        let kernel = KernelFiles::find(&spec.kernel, &workshop, progress)?;
        let busybox = BusyboxFile::find(&spec.busybox, &workshop, progress)?;
        if let (Some(kernel), Some(busybox)) = (&kernel.package, &busybox.package) {
            workshop.keep_only(&[kernel, busybox])?;
        }

        progress(Step::ExtractingKernel);
        let (vmlinux, release) = kernel.extract()?;
        let modules = modules::collect(&kernel.modules, &release)?;
        progress(Step::Packing);
        let agent_sha256 = Sha256Digest::of(&agent);
        let programs = Busybox::read(&busybox.path, staging.path())?;
        let archive = programs.pack(agent, modules);
        Ok(BootFiles {
            vmlinux,
            kernel_package: kernel.package.map(PackageVersion::from),
            release,
            archive: archive.map_err(TemplateError::io("pack an initramfs in", staging.path()))?,
            busybox_package: busybox.package.map(PackageVersion::from),
            agent_sha256,
            busybox: programs,
        })
    }
}

/// What a template consists of beside its root.
pub(crate) struct BootFiles {
    vmlinux: Vec<u8>,
    kernel_package: Option<PackageVersion>,
    release: String,
    archive: Vec<u8>,
    busybox_package: Option<PackageVersion>,
    agent_sha256: Sha256Digest,
    busybox: Busybox,
}

impl BootFiles {
    /// Returns the content of a template without a root disk.
    pub(crate) fn content(&self) -> Content<'_> {
        Content {
            kernel: &self.vmlinux,
            kernel_package: self.kernel_package.clone(),
            release: self.release.clone(),
            initramfs: Some(Archive {
                content: &self.archive,
                busybox: self.busybox_package.clone(),
                agent_sha256: Some(self.agent_sha256),
            }),
            root_disk: None,
            root_origin: None,
            warm: None,
            boot_args: BOOT_ARGS.to_owned(),
        }
    }

    /// Returns the files of a small system with busybox.
    #[cfg(feature = "oci")]
    pub(crate) fn minimal(&self) -> std::io::Result<crate::tree::FileTree> {
        let Busybox { program, list } = &self.busybox;
        let applets = initramfs::applets(list).unwrap_or_default();
        initramfs::minimal(program.clone(), &applets).to_file_tree()
    }
}

impl From<Package> for PackageVersion {
    fn from(package: Package) -> Self {
        Self {
            name: package.name,
            version: package.version,
        }
    }
}

struct KernelFiles {
    package: Option<Package>,
    image: PathBuf,
    modules: PathBuf,
}

impl KernelFiles {
    fn find(
        source: &KernelSource,
        workshop: &Workshop<'_>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Self, TemplateError> {
        match source {
            KernelSource::Files { image, modules_dir } => Ok(Self {
                package: None,
                image: image.clone(),
                modules: modules_dir.clone(),
            }),
            KernelSource::Package(name) => {
                let unpacked = Unpacked::fetch(workshop.find_kernel(name)?, workshop, progress)?;
                let is_image = |name: &str| name.starts_with("vmlinuz-");
                let modules = &["lib/modules", "usr/lib/modules"];
                Ok(Self {
                    image: unpacked.find("kernel image", &["boot"], is_image)?,
                    modules: unpacked.find("modules", modules, |_| true)?,
                    package: Some(unpacked.package),
                })
            }
        }
    }

    fn extract(&self) -> Result<(Vec<u8>, String), TemplateError> {
        let bad = |source| TemplateError::Kernel {
            path: self.image.clone(),
            source,
        };
        let vmlinux = vmlinux::extract(file::read(&self.image, kernel::MAX_IMAGE)?).map_err(bad)?;
        let release = kernel::release(&vmlinux).map_err(bad)?;
        Ok((vmlinux, release))
    }
}

struct BusyboxFile {
    package: Option<Package>,
    path: PathBuf,
}

impl BusyboxFile {
    fn find(
        source: &BusyboxSource,
        workshop: &Workshop<'_>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Self, TemplateError> {
        match source {
            BusyboxSource::File(path) => Ok(Self {
                package: None,
                path: path.clone(),
            }),
            BusyboxSource::Package(name) => {
                let unpacked = Unpacked::fetch(workshop.find(name)?, workshop, progress)?;
                let is_it = |name: &str| name == "busybox";
                Ok(Self {
                    path: unpacked.find("busybox", &["bin", "usr/bin"], is_it)?,
                    package: Some(unpacked.package),
                })
            }
        }
    }
}

/// A package with its files in a directory.
struct Unpacked {
    package: Package,
    root: PathBuf,
}

impl Unpacked {
    fn fetch(
        package: Package,
        workshop: &Workshop<'_>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Self, TemplateError> {
        let root = workshop.fetch(&package, progress)?;
        Ok(Self { package, root })
    }

    /// Returns the first match, by name, in the first of `directories` that has one; without any, the
    /// error that the package has no `what`.
    fn find(
        &self,
        what: &'static str,
        directories: &[&str],
        matches: impl Fn(&str) -> bool,
    ) -> Result<PathBuf, TemplateError> {
        for directory in directories {
            let directory = self.root.join(directory);
            if file::exists(&directory)? {
                let entries = directory::entries(&directory)?;
                let mut names: Vec<_> = entries.iter().map(std::fs::DirEntry::file_name).collect();
                names.sort();
                if let Some(name) = names
                    .into_iter()
                    .find(|name| matches(&name.to_string_lossy()))
                {
                    return Ok(directory.join(name));
                }
            }
        }
        Err(TemplateError::NotInPackage {
            package: self.package.name.clone(),
            what,
        })
    }
}

/// Busybox, and the list of its applets.
struct Busybox {
    program: Vec<u8>,
    list: String,
}

impl Busybox {
    /// Reads busybox, and asks it for its applets.
    fn read(path: &Path, staging: &Path) -> Result<Self, TemplateError> {
        let program = initramfs::read_program(path)?;
        // Executes busybox from memory: the directory of templates may be on a file system mounted
        // `noexec`.
        let loaded = tool::Loaded::new("busybox", &program);
        let executable = match &loaded {
            Ok(loaded) => loaded.path(),
            // Absolute, because it runs in another directory.
            Err(_) => path
                .canonicalize()
                .map_err(TemplateError::io("resolve", path))?,
        };
        let arguments = [OsString::from("--list-full")];
        let list = tool::run("busybox", &executable, &arguments, staging, BUSYBOX_LIMIT)?;
        initramfs::applets(&list)?;
        Ok(Self { program, list })
    }

    /// Packs the initramfs.
    fn pack(&self, agent: Vec<u8>, modules: Vec<Module>) -> std::io::Result<Vec<u8>> {
        let applets = initramfs::applets(&self.list).unwrap_or_default();
        initramfs::tree(agent, self.program.clone(), &applets, modules).to_cpio()
    }
}
