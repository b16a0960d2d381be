//! The options of `ironclaw run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use ironclaw_orchestrator::vm::config::BackendChoice;

use ironclaw_client::HostChoice;
use ironclaw_console::value::{Port, time_limit, variable};

use super::value::{absolute, backend, mebibytes};
use crate::help;
use ironclaw_inventory::TemplateOptions;

#[derive(Debug, Args)]
#[command(after_help = help::RUN_EXAMPLES, after_long_help = help::run())]
pub(crate) struct Run {
    /// Ask this daemon: unix:PATH, http://HOST:PORT, https://NAME or https://NAME:PORT; `none` is no daemon.
    /// Otherwise IRONCLAW_HOST, or the daemon of these settings if it runs. IRONCLAW_API_KEY has the key.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) host: Option<HostChoice>,
    /// Trust the certificates in this file, in PEM, beside the system's, as authorities of a daemon. Overrides
    /// IRONCLAW_DAEMON_CA_FILE.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) template: TemplateOptions,
    /// Hypervisor. Overrides IRONCLAW_BACKEND.
    #[arg(long, value_parser = backend())]
    pub(crate) backend: Option<BackendChoice>,
    /// Kill the command after this time and exit with 124: 30s, 1m30s, 500ms.
    #[arg(long, value_name = "TIME", value_parser = time_limit)]
    pub(crate) timeout: Option<Duration>,
    /// Set an environment variable of the command; may be given more than once.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(variable))]
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Run the command in this directory of the guest. Otherwise it is the image's, or the home of the user
    /// who is asked for.
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR", value_parser = OsStringValueParser::new().try_map(absolute))]
    pub(crate) cwd: Option<PathBuf>,
    /// Run the command as this user of the guest, with a login's environment, in its home: a name in
    /// the guest's /etc/passwd or a uid, either with :GROUP. Otherwise as the image's user, or root.
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = OsStringValueParser::new())]
    pub(crate) user: Option<OsString>,
    /// Run this program in place of the image's entrypoint and command; empty to run the command alone.
    #[arg(long, value_name = "PROGRAM", value_parser = OsStringValueParser::new())]
    pub(crate) entrypoint: Option<OsString>,
    /// Most that the guest may write to its disk, where its template has a root disk: 4GiB, 512MiB.
    /// Overrides IRONCLAW_DISK_MIB.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) disk: Option<u32>,
    /// Memory of the guest: 512MiB, 2GiB. Overrides IRONCLAW_MEMORY_MIB.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) memory: Option<u32>,
    /// Forward standard input to the command; it is empty otherwise.
    #[arg(short = 'i', long, visible_alias = "interactive")]
    pub(crate) stdin: bool,
    /// Run the command on a terminal of its own, as large as this one; with -i, what is typed here is
    /// typed there.
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) tty: bool,
    /// Let connections to a port of this host reach a port of the guest, where it needs no network for
    /// that: the same one unless two are named, on 127.0.0.1, unless ADDR is another address of this host;
    /// port 0 is any that is free. May be given more than once.
    #[arg(short = 'p', long = "publish", value_name = "[[ADDR:]PORT:]PORT")]
    pub(crate) ports: Vec<Port>,
    /// Write what differs from the template's image when the command has ended to this file, as a
    /// layer for it: a tar archive with the whiteouts of OCI images.
    #[arg(long, value_name = "FILE")]
    pub(crate) changes: Option<PathBuf>,
    /// Say on standard error how the VM came to be, and how long each stage took.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// The command and its arguments: in place of the image's command, behind its entrypoint. Without one,
    /// what the image runs.
    #[arg(value_name = "CMD", required_unless_present_any = ["template", "image", "entrypoint"],
          trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}
