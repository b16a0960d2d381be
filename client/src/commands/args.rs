//! The command lines.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use ironclaw_console::value;

use super::help;
use crate::address::Address;

/// A command that asks a daemon.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Task {
    /// Make a sandbox: a microVM of the daemon, which stays until its deadline. Prints its id.
    Create(Create),
    /// List the daemon's sandboxes.
    #[command(visible_alias = "ps")]
    Ls(Ls),
    /// Run a command in a sandbox.
    Exec(Exec),
    /// Write the memory of sandboxes to disk and end their VMs: their commands go on when they are resumed.
    Pause(Pause),
    /// Go on with paused sandboxes.
    Resume(Resume),
    /// Copy a sandbox that runs, with what runs in it. Prints the id of each copy.
    Fork(Fork),
    /// End sandboxes for good.
    Rm(Rm),
    /// Copy files and directories between here and a sandbox.
    Cp(Cp),
    /// Print what the commands of a sandbox printed.
    Logs(Logs),
    /// Let connections to ports of this host reach ports of a sandbox, until it is interrupted.
    Port(Port),
}

impl Task {
    /// Returns which daemon is asked.
    pub(super) fn daemon(&self) -> &Daemon {
        match self {
            Self::Create(task) => &task.daemon,
            Self::Ls(task) => &task.daemon,
            Self::Exec(task) => &task.daemon,
            Self::Pause(task) => &task.daemon,
            Self::Resume(task) => &task.daemon,
            Self::Fork(task) => &task.daemon,
            Self::Rm(task) => &task.daemon,
            Self::Cp(task) => &task.daemon,
            Self::Logs(task) => &task.daemon,
            Self::Port(task) => &task.daemon,
        }
    }
}

/// Which daemon is asked.
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// The daemon: unix:PATH, http://HOST:PORT, https://NAME or https://NAME:PORT. Otherwise IRONCLAW_HOST, or the
    /// socket of the daemon of these settings. IRONCLAW_API_KEY has the key, which none needs who may open its socket.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) host: Option<Address>,
    /// Trust the certificates in this file, in PEM, beside the system's, as authorities of a daemon. Overrides
    /// IRONCLAW_DAEMON_CA_FILE.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = help::CREATE_EXAMPLES)]
pub struct Create {
    #[command(flatten)]
    daemon: Daemon,
    /// The template; by default the daemon's.
    #[arg(default_value = "base", value_name = "TEMPLATE")]
    pub(super) template: String,
    /// A name, by which commands find it, too.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// What to find it by; may be given more than once.
    #[arg(short, long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) metadata: Vec<(String, String)>,
    /// Set an environment variable of its commands; may be given more than once.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) env: Vec<(String, String)>,
    /// Run its commands as this user of the guest.
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Time until its deadline: 5m, 12h.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(super) lifetime: Duration,
    /// Pause it at its deadline instead of ending it.
    #[arg(long)]
    pub(super) pause_at_deadline: bool,
}

#[derive(Debug, Args)]
#[command(after_help = help::LS_EXAMPLES)]
pub struct Ls {
    #[command(flatten)]
    daemon: Daemon,
    /// Print ids alone.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = help::EXEC_EXAMPLES)]
pub struct Exec {
    #[command(flatten)]
    daemon: Daemon,
    /// Forward standard input to the command; it is empty otherwise.
    #[arg(short = 'i', long, visible_alias = "interactive")]
    pub(super) stdin: bool,
    /// Run the command on a terminal of its own, as large as this one; with -i, what is typed here is
    /// typed there.
    #[arg(short, long, conflicts_with = "json")]
    pub(super) tty: bool,
    /// Set an environment variable of the command; may be given more than once.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) env: Vec<(String, String)>,
    /// Run the command in this directory of the guest.
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    pub(super) cwd: Option<String>,
    /// Run the command as this user of the guest.
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Kill the command after this time and exit with 124: 30s, 1m30s, 500ms.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// The sandbox: its id or name.
    #[arg(value_name = "SANDBOX")]
    pub(super) sandbox: String,
    /// The command and its arguments.
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = help::PAUSE_EXAMPLES)]
pub struct Pause {
    #[command(flatten)]
    daemon: Daemon,
    /// The sandboxes: their ids or names.
    #[arg(value_name = "SANDBOX", required = true)]
    pub(super) sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = help::RESUME_EXAMPLES)]
pub struct Resume {
    #[command(flatten)]
    daemon: Daemon,
    /// Time until the deadline: 5m, 12h.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(super) lifetime: Duration,
    /// The sandboxes: their ids or names.
    #[arg(value_name = "SANDBOX", required = true)]
    pub(super) sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = help::FORK_EXAMPLES)]
pub struct Fork {
    #[command(flatten)]
    daemon: Daemon,
    /// How many copies: 20 at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub(super) count: usize,
    /// Time until the deadline of each: 5m, 12h.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(super) lifetime: Duration,
    /// The sandbox: its id or name.
    #[arg(value_name = "SANDBOX")]
    pub(super) sandbox: String,
}

#[derive(Debug, Args)]
#[command(after_help = help::RM_EXAMPLES)]
pub struct Rm {
    #[command(flatten)]
    daemon: Daemon,
    /// End all that there are.
    #[arg(long, conflicts_with = "sandboxes")]
    pub(super) all: bool,
    /// The sandboxes: their ids or names.
    #[arg(value_name = "SANDBOX", required_unless_present = "all")]
    pub(super) sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = help::CP_EXAMPLES)]
pub struct Cp {
    #[command(flatten)]
    daemon: Daemon,
    /// Read and write as this user of the guest, whose the files are there.
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Give the files there the owners that they have here, by number; with -u root.
    #[arg(short = 'a', long)]
    pub(super) keep_owners: bool,
    /// What to copy: a path here, SANDBOX:PATH, or - for a tar archive on standard input.
    #[arg(value_name = "SOURCE")]
    pub(super) source: Place,
    /// Where to: a path here, SANDBOX:PATH, or - for a tar archive on standard output. A directory gets what is
    /// copied under its own name.
    #[arg(value_name = "DESTINATION")]
    pub(super) destination: Place,
}

#[derive(Debug, Args)]
#[command(after_help = help::LOGS_EXAMPLES)]
pub struct Logs {
    #[command(flatten)]
    daemon: Daemon,
    /// Wait for what comes, until the command has ended; without one, until the sandbox has.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// List the commands of the log instead, with their PIDs.
    #[arg(long, conflicts_with = "follow")]
    pub(super) commands: bool,
    /// The sandbox: its id or name.
    #[arg(value_name = "SANDBOX")]
    pub(super) sandbox: String,
    /// The command: its PID in the sandbox. Otherwise all.
    #[arg(value_name = "PID")]
    pub(super) command: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = help::PORT_EXAMPLES)]
pub struct Port {
    #[command(flatten)]
    daemon: Daemon,
    /// The sandbox: its id or name.
    #[arg(value_name = "SANDBOX")]
    pub(super) sandbox: String,
    /// A port of the sandbox, behind the port of this host that leads to it, which is the same by default: on
    /// 127.0.0.1, unless ADDR is another address of this host; port 0 is any that is free.
    #[arg(value_name = "[[ADDR:]PORT:]PORT", required = true)]
    pub(super) ports: Vec<value::Port>,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A path of this machine.
    Here(PathBuf),
    /// An absolute path in a sandbox.
    There { sandbox: String, path: String },
    /// A standard stream.
    Stream,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        // A path with a colon is told apart by a slash before it, as by `./`.
        match text.split_once(':') {
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                if !path.starts_with('/') {
                    return Err(format!(
                        "{path:?} is no absolute path of the sandbox {sandbox:?}"
                    ));
                }
                let (sandbox, path) = (sandbox.to_owned(), path.to_owned());
                Ok(Self::There { sandbox, path })
            }
            _ if text.is_empty() => Err("a path has a name".to_owned()),
            _ => Ok(Self::Here(text.into())),
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is no NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_sandboxes_if_a_name_and_a_colon_begin_it() {
        let of = |text: &str| text.parse::<Place>();
        let there = Place::There {
            sandbox: "one".to_owned(),
            path: "/a:b".to_owned(),
        };
        assert_eq!(of("one:/a:b"), Ok(there));
        assert_eq!(of("./one:/a"), Ok(Place::Here("./one:/a".into())));
        assert_eq!(of(":/a"), Ok(Place::Here(":/a".into())));
        assert_eq!(of("-"), Ok(Place::Stream));
        assert!(of("one:a").is_err() && of("one:").is_err() && of("").is_err());
    }
}
