//! The commands of `ironclaw template`.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use ironclaw_orchestrator::template::TemplateName;
use ironclaw_orchestrator::template::oci::{RegistryAccess, RootSource};
use ironclaw_orchestrator::vm::Config;

use crate::help;
use crate::steps::{DockerfileOptions, StepOptions};
use crate::which::{Begin, Which};

/// How the registry of a docker:// source is reached.
#[derive(Debug, Args)]
pub struct RegistryFlags {
    /// Trust the authorities in this file, in PEM, beside the system's and those in
    /// /etc/docker/certs.d/REGISTRY. Overrides IRONCLAW_REGISTRY_CA_FILE.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Ask the source's registry in plain HTTP, also on another machine. One on this machine is wherever it
    /// speaks no TLS. See IRONCLAW_REGISTRY_PLAIN_HTTP.
    #[arg(long)]
    pub plain_http: bool,
}

impl RegistryFlags {
    /// Returns how registries are reached: what the settings say, and these.
    pub fn access(self, config: &Config, source: Option<&RootSource>) -> RegistryAccess {
        let access = config.registry_access().with_ca_file(self.ca_file);
        match source {
            Some(RootSource::Registry(image)) if self.plain_http => {
                access.with_plain_http([image.registry().to_owned()])
            }
            _ => access,
        }
    }
}

/// A command of `ironclaw template`.
#[derive(Debug, Subcommand)]
pub enum TemplateTask {
    /// Build a template, and give it a name. With --from its root is what an image, an archive or a
    /// directory holds, read-only on a disk below what a guest writes; without, it is a busybox in memory,
    /// or for the name `base` a Debian with Python, Node and git. Steps change what it begins with: options
    /// in their order, or a Dockerfile.
    #[command(after_help = help::TEMPLATE_EXAMPLES)]
    Build(BuildTask),
    /// Make a template from a kernel of your own, whose guest speaks IronClaw's protocol, and give it a
    /// name.
    #[command(after_help = help::IMPORT_EXAMPLES)]
    Import {
        /// Its name; without one it becomes the default.
        #[arg(value_name = "NAME")]
        name: Option<TemplateName>,
        /// An ELF kernel image.
        #[arg(long, value_name = "FILE")]
        kernel: PathBuf,
        /// Its initramfs, if it wants one.
        #[arg(long, value_name = "FILE")]
        initramfs: Option<PathBuf>,
        /// A read-only image for its root, if that is to be on a disk: erofs, squashfs or ext4.
        #[arg(long, value_name = "FILE")]
        root_disk: Option<PathBuf>,
        /// Its arguments; the hypervisor adds what it needs.
        #[arg(long, value_name = "TEXT", default_value = "")]
        boot_args: String,
    },
    /// Show the templates on disk.
    #[command(after_help = help::TEMPLATE_LIST_EXAMPLES)]
    List,
    /// Show a template: its names, where its root came from, and what its image says of the programs in
    /// it.
    #[command(after_help = help::TEMPLATE_SHOW_EXAMPLES)]
    Show {
        /// Its name or hash; without one, the default template.
        #[arg(value_name = "NAME|HASH")]
        which: Option<Which>,
    },
    /// Show the default template, or make the one with this name the default.
    #[command(after_help = help::TEMPLATE_DEFAULT_EXAMPLES)]
    Default {
        /// The name. The default follows it when another template is built under it.
        #[arg(value_name = "NAME")]
        name: Option<TemplateName>,
    },
    /// Give a template another name.
    #[command(after_help = help::TEMPLATE_NAME_EXAMPLES)]
    Name {
        /// A name or a hash that it has.
        #[arg(value_name = "NAME|HASH")]
        which: Which,
        /// The new name, which it takes from another template.
        #[arg(value_name = "NEW")]
        name: TemplateName,
    },
    /// Compare the content of templates with what was built. Exits with 1 on a difference.
    #[command(after_help = help::TEMPLATE_VERIFY_EXAMPLES)]
    Verify(Templates),
    /// Delete templates: by a name, the name, and the template unless another name or the default leads
    /// to it. One that a program uses, or that snapshots and checkpoints need, is removed when they are gone.
    /// Without the default one, the next run builds a template.
    #[command(visible_alias = "rm", after_help = help::TEMPLATE_DELETE_EXAMPLES)]
    Delete(Templates),
}

#[derive(Debug, Args)]
pub struct BuildTask {
    /// Its name, which it takes from the one that was built under it before. Without one it becomes
    /// the default.
    #[arg(value_name = "NAME")]
    pub name: Option<TemplateName>,
    /// What it begins with: docker://REGISTRY/REF, oci:DIR:REF, oci-archive:FILE:REF, docker-archive:FILE:REF,
    /// where an only image needs no REF, rootfs:DIR, tar:FILE, or debian:SUITE, which mmdebstrap installs; or
    /// the name of a template, minimal or scratch. Without it the template `base` begins with a recipe of
    /// IronClaw's own, and others with `minimal`.
    #[arg(long, value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Begin::parse))]
    pub from: Option<Begin>,
    /// Packages that debian:SUITE has beside the required ones, or `base` beside its own.
    #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
    pub include: Vec<String>,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[command(flatten)]
    pub steps: StepOptions,
    #[command(flatten)]
    pub dockerfile: DockerfileOptions,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Templates {
    /// Names or hashes, as `ironclaw template list` shows them.
    #[arg(value_name = "NAME|HASH")]
    pub which: Vec<Which>,
    /// All templates.
    #[arg(long)]
    pub all: bool,
}
