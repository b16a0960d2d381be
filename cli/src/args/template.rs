//! The commands of `ironclaw template`.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use ironclaw_orchestrator::template::TemplateHash;
use ironclaw_orchestrator::template::oci::RootSource;

use crate::help;

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateTask {
    /// Build a template from Debian's packages and make it the default. With --from its root is what an
    /// image, an archive or a directory holds, read-only on a disk below what a guest writes.
    #[command(after_help = help::TEMPLATE_EXAMPLES)]
    Build {
        /// Where the root comes from: oci:DIR:REF, oci-archive:FILE:REF, docker-archive:FILE:REF, where
        /// an only image needs no REF, rootfs:DIR or tar:FILE.
        #[arg(long, value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(|text| RootSource::parse(&text)))]
        from: Option<RootSource>,
    },
    /// Make a template from a kernel of your own, whose guest speaks IronClaw's protocol, and make
    /// it the default.
    #[command(after_help = help::IMPORT_EXAMPLES)]
    Import {
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
    /// Compare the content of templates with what was built. Exits with 1 on a difference.
    #[command(after_help = help::TEMPLATE_VERIFY_EXAMPLES)]
    Verify(Templates),
    /// Delete templates. Their snapshots stay, and so do VMs that run; a program that uses one can't
    /// boot it again. Without the default one, the next run builds a template.
    #[command(after_help = help::TEMPLATE_DELETE_EXAMPLES)]
    Delete(Templates),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Templates {
    /// Hashes, as `ironclaw template list` shows them.
    #[arg(value_name = "HASH")]
    pub(crate) hashes: Vec<TemplateHash>,
    /// All templates.
    #[arg(long)]
    pub(crate) all: bool,
}
