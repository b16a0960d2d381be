//! The command line.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ironclaw_bench::{bench, soak};
use ironclaw_console::streams::{Stderr, Stdout};
use ironclaw_console::written;
use ironclaw_orchestrator::template::TemplateHash;
use ironclaw_orchestrator::template::oci::RootSource;
use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::snapshot::SnapshotId;

use crate::exit::Code;
use crate::{failure, help};

/// Longest time limit of a command.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Runs commands in fresh microVMs, each restored from a snapshot in milliseconds.
#[derive(Debug, Parser)]
#[command(name = "ironclaw", version, after_help = help::MAIN_EXAMPLES, after_long_help = help::main())]
pub(crate) struct Cli {
    /// Print JSON on standard output instead of text; of a failure, {"error", "kind", "exit_code"}.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Set a setting, whatever its variable or a file sets; may be given more than once. `ironclaw config
    /// show` lists the keys.
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = OsStringValueParser::new().try_map(setting))]
    pub(crate) set: Vec<(String, OsString)>,
    #[command(subcommand)]
    pub(crate) task: Task,
}

impl Cli {
    /// The command line of this process. Ends the program where it is wrong, or asks for help.
    pub(crate) fn of_process() -> Self {
        let words: Vec<_> = std::env::args_os().collect();
        Self::from_words(&words).unwrap_or_else(|error| {
            if error.use_stderr() && asks_for_json(&words) {
                failure::print(&said(&error), Code::Usage as u8);
            }
            std::process::exit(show(&error))
        })
    }

    fn from_words(words: &[OsString]) -> Result<Self, clap::Error> {
        let mut cli = Self::try_parse_from(words)?;
        if let Task::Pool(PoolTask::Stats {
            format: Some(StatsFormat::Json),
        }) = cli.task
        {
            cli.json = true;
        }
        if cli.json && matches!(cli.task, Task::Completions { .. }) {
            let text = "--json can't be used with `completions`, which prints a script";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        if let Task::Run(Run {
            tty: true,
            stdin: true,
            ..
        }) = cli.task
            && !std::io::stdin().is_terminal()
        {
            // What a pipe holds would be typed before the command reads from its terminal, and lost.
            let text = "-it takes what is typed, and standard input is no terminal: leave -t out to forward \
                        what it holds, or -i to type nothing";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        Ok(cli)
    }
}

/// Prints help, or what is wrong with the command line; returns the exit code.
fn show(error: &clap::Error) -> i32 {
    let stream: &dyn IsTerminal = if error.use_stderr() {
        &std::io::stderr()
    } else {
        &std::io::stdout()
    };
    // As clap would by itself; see no-color.org.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    let text = if stream.is_terminal() && !is_plain {
        error.render().ansi().to_string()
    } else {
        error.render().to_string()
    };
    if error.use_stderr() {
        // The exit code says so, too.
        let _ = Stderr.write_all(text.as_bytes());
        return error.exit_code();
    }
    match Stdout.write_all(text.as_bytes()) {
        Ok(()) => error.exit_code(),
        Err(error) => failure::tell(&written(error), false).into(),
    }
}

/// Whether a command line that could not be understood asks for JSON, before the `--` that a guest's
/// command follows.
fn asks_for_json(words: &[OsString]) -> bool {
    let end = words.iter().position(|word| word == "--");
    let ours = words.get(..end.unwrap_or(words.len())).unwrap_or_default();
    ours.iter()
        .any(|word| word == "--json" || word == "--format=json")
        || ours.windows(2).any(|pair| pair == ["--format", "json"])
}

/// What is wrong with a command line, in one line and without the usage that people get.
fn said(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a subcommand is missing".to_owned();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = first.lines().map(str::trim).collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a command in a fresh microVM.
    Run(Run),
    /// What VMs boot from.
    #[command(subcommand)]
    Template(TemplateTask),
    /// What VMs are restored from.
    #[command(subcommand)]
    Snapshot(SnapshotTask),
    /// The set of snapshots that VMs are taken from in turn.
    #[command(subcommand)]
    Pool(PoolTask),
    /// The settings.
    #[command(subcommand)]
    Config(ConfigTask),
    /// Check what is installed, and say which hypervisor would be used and why.
    #[command(after_help = help::DOCTOR_EXAMPLES)]
    Doctor,
    /// Measure spawns on this machine: time by tier and stage, memory, disk, throughput.
    #[command(after_help = help::BENCH_EXAMPLES)]
    Bench(Bench),
    /// Use a pool for long, let things go wrong, and look for what is left. Exits with 1 if
    /// anything leaked, or failed that should not.
    #[command(after_help = help::SOAK_EXAMPLES)]
    Soak(Soak),
    /// Print a completion script for a shell.
    #[command(after_help = help::COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Measurements of each kind, 1 to 1000; of cold boots 5 at most, 3
    /// of a quick run. The 99th percentile takes
    /// 100 to be more than the slowest one.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Measure only what the ratios take: no throughput, no memory of many clones.
    #[arg(long, conflicts_with = "plot")]
    pub(crate) quick: bool,
    /// Draw the figures as SVG files in this directory, which is made if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,
    /// Compare the ratios with those in this file, and exit with 1 if one is more than twice what
    /// it says. The last one given counts.
    #[arg(long, value_name = "FILE", overrides_with = "compare")]
    pub(crate) compare: Option<PathBuf>,
    /// Measure only so many clients at a time that spawn, run a command and destroy, again and
    /// again, in turns with starts, loads and kills of Firecracker alone; as root also jailed. Takes
    /// three seconds for each of them in each round.
    #[arg(long, value_name = "CLIENTS", value_delimiter = ',', conflicts_with_all = ["quick", "plot", "compare"],
          value_parser = clap::value_parser!(u8).range(1..=200))]
    pub(crate) churn: Vec<u8>,
    /// Measure only what a warm clone costs among so many, each number by itself: to fill the pool, a
    /// spawn, memory, to close it, and to sweep what a killed process with as many left. There has to
    /// be memory for them: 1 to 5 MiB each with the test guest, which is not counted by the budget.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', conflicts_with_all = ["quick", "compare", "churn"],
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) clones: Vec<u16>,
    /// Hold so many warm clones until this process is killed: `--clones` starts it with that.
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) hold: Option<u16>,
}

impl From<Bench> for bench::Options {
    fn from(task: Bench) -> Self {
        Self {
            rounds: task.rounds,
            quick: task.quick,
            plot: task.plot,
            compare: task.compare,
            churn: task.churn.into_iter().map(usize::from).collect(),
            clones: task.clones.into_iter().map(usize::from).collect(),
            hold: task.hold.map(usize::from),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = help::SOAK_EXAMPLES)]
pub(crate) struct Soak {
    /// How long: 30s, 10m, 8h. Without it and --spawns, 1m.
    #[arg(long = "for", value_name = "TIME", value_parser = timeout)]
    pub(crate) time: Option<Duration>,
    /// Stop after this many spawns; with --for, whichever comes first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) spawns: Option<u64>,
    /// Spawns at a time, 1 to 200.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) concurrency: u16,
    /// Kill VMMs, damage snapshots, fill the disk and let the pool's clock jump meanwhile.
    #[arg(long)]
    pub(crate) faults: bool,
    /// Choose as the run did that printed this seed. What happens at the same time as what still
    /// differs.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

impl From<Soak> for soak::Options {
    fn from(task: Soak) -> Self {
        Self {
            time: task.time,
            spawns: task.spawns,
            concurrency: task.concurrency,
            faults: task.faults,
            seed: task.seed,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = help::RUN_EXAMPLES, after_long_help = help::run())]
pub(crate) struct Run {
    /// Hypervisor. Overrides IRONCLAW_BACKEND.
    #[arg(long, value_parser = backend())]
    pub(crate) backend: Option<BackendChoice>,
    /// Kill the command after this time and exit with 124: 30s, 1m30s, 500ms.
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub(crate) timeout: Option<Duration>,
    /// Set an environment variable of the command; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(variable))]
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Run the command in this directory of the guest.
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(absolute))]
    pub(crate) cwd: Option<PathBuf>,
    /// Run the command as this user of the guest, with a login's environment, in its home: a name in
    /// the guest's /etc/passwd or a uid, either with :GROUP. As root otherwise.
    #[arg(long, value_name = "USER[:GROUP]", value_parser = OsStringValueParser::new())]
    pub(crate) user: Option<OsString>,
    /// Forward standard input to the command; it is empty otherwise.
    #[arg(short = 'i', long, visible_alias = "interactive")]
    pub(crate) stdin: bool,
    /// Run the command on a terminal of its own, as large as this one; with -i, what is typed here is
    /// typed there.
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) tty: bool,
    /// Say on standard error how the VM came to be, and how long each stage took.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// The command and its arguments.
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

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

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotTask {
    /// Boot the template and take a snapshot of it.
    #[command(after_help = help::SNAPSHOT_CREATE_EXAMPLES)]
    Create,
    /// Show the snapshots on disk.
    #[command(after_help = help::SNAPSHOT_LIST_EXAMPLES)]
    List,
    /// Compare the content of snapshots with what was published. Exits with 1 on a difference.
    #[command(after_help = help::SNAPSHOT_VERIFY_EXAMPLES)]
    Verify(Snapshots),
    /// Delete snapshots that no VM uses; checkpoints, which can't be made again, by their ids.
    #[command(after_help = help::SNAPSHOT_DELETE_EXAMPLES)]
    Delete(Snapshots),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Snapshots {
    /// Ids, as `ironclaw snapshot list` shows them.
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<SnapshotId>,
    /// All snapshots; of what is deleted, those that a pool can make again.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolTask {
    /// Build the snapshots that are missing, up to IRONCLAW_POOL_SIZE, and replace those that are
    /// older than IRONCLAW_SNAPSHOT_REFRESH_SECS.
    #[command(after_help = help::POOL_EXAMPLES)]
    Warmup,
    /// Replace every snapshot by one of a fresh boot; the former are deleted when nothing uses
    /// them any more, and so is whatever else is older than IRONCLAW_SNAPSHOT_REFRESH_SECS and
    /// used by nobody. Checkpoints stay.
    #[command(after_help = help::POOL_EXAMPLES)]
    Refresh,
    /// Show the snapshots on disk: kind, age, size, use, and whether they fit this machine; and how many
    /// VMs there is memory for.
    ///
    /// What the pool of a running program has warm and has served, and whether it has switched a tier
    /// off, only that program knows: see `pool_stats` and `prometheus_text` of the library. Whether the
    /// tiers work here, `ironclaw doctor` tries.
    #[command(after_help = help::POOL_STATS_EXAMPLES)]
    Stats {
        /// As a table, as one line of JSON (also --json), or in the text format of Prometheus.
        #[arg(long, value_enum, conflicts_with = "json")]
        format: Option<StatsFormat>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigTask {
    /// Show each setting, its value, and what set it.
    #[command(after_help = help::CONFIG_EXAMPLES)]
    Show,
}

/// How figures are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsFormat {
    Table,
    Json,
    Prometheus,
}

/// Of values that a shell can offer.
fn backend() -> impl TypedValueParser<Value = BackendChoice> {
    PossibleValuesParser::new(BackendChoice::names()).try_map(|text| {
        let parsed = text.parse();
        parsed.map_err(|()| format!("it takes one of {}", BackendChoice::names().join(", ")))
    })
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&time) {
        Ok(time)
    } else {
        Err("it takes 1ms to 30days".to_owned())
    }
}

fn variable(text: OsString) -> Result<(OsString, OsString), &'static str> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => {
            let part = |bytes| OsStr::from_bytes(bytes).to_owned();
            Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
        }
        _ => Err("it takes NAME=VALUE"),
    }
}

fn setting(text: OsString) -> Result<(String, OsString), &'static str> {
    let (key, value) = variable(text).map_err(|_| "it takes KEY=VALUE")?;
    let key = key.into_string().map_err(|_| "a key is in UTF-8")?;
    Ok((key, value))
}

fn absolute(text: OsString) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("it takes an absolute path")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_guests_command_is_taken_as_it_is() {
        for words in [&["--", "ls", "-l", "--json"][..], &["ls", "-l", "--json"]] {
            let line = ["ironclaw", "run"].iter().chain(words);
            let cli = Cli::try_parse_from(line).unwrap();
            let Task::Run(run) = cli.task else {
                panic!("not a run")
            };
            assert_eq!(run.command, ["ls", "-l", "--json"]);
            assert!(!cli.json);
        }
    }

    #[test]
    fn the_guests_command_its_variables_and_its_directory_are_bytes() {
        let latin = |text: &[u8]| OsStr::from_bytes(text).to_owned();
        let line = [
            latin(b"ironclaw"),
            latin(b"run"),
            latin(b"--env=A=\xe9=\xff"),
            latin(b"--cwd=/caf\xe9"),
            latin(b"printf"),
            latin(b"caf\xe9"),
        ];
        let Task::Run(run) = Cli::try_parse_from(line).unwrap().task else {
            panic!("not a run")
        };
        assert_eq!(run.command, [latin(b"printf"), latin(b"caf\xe9")]);
        assert_eq!(run.env, [(latin(b"A"), latin(b"\xe9=\xff"))]);
        assert_eq!(run.cwd, Some(latin(b"/caf\xe9").into()));
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for option in [
            "--timeout=0s",
            "--timeout=31days",
            "--timeout=soon",
            "--env=novalue",
            "--env==x",
            "--cwd=relative",
            "--backend=xen",
        ] {
            let result = Cli::try_parse_from(["ironclaw", "run", option, "--", "true"]);
            assert!(result.is_err(), "{option} is taken");
        }
    }

    #[test]
    fn figures_have_one_format() {
        let parse = |words: &[&str]| {
            let line = ["ironclaw", "pool", "stats"].iter().chain(words);
            Cli::try_parse_from(line).is_ok()
        };
        for format in ["table", "json", "prometheus"] {
            assert!(parse(&["--format", format]));
        }
        assert!(parse(&["--json"]) && parse(&[]));
        assert!(!parse(&["--json", "--format", "table"]) && !parse(&["--format", "xml"]));
    }

    #[test]
    fn ids_and_all_exclude_each_other_and_one_is_needed() {
        let id = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f";
        let parse = |words: &[&str]| {
            Cli::try_parse_from(["ironclaw", "snapshot", "verify"].iter().chain(words)).is_ok()
        };
        assert!(parse(&["--all"]) && parse(&[id]) && parse(&[id, id]));
        assert!(!parse(&[]) && !parse(&["--all", id]) && !parse(&["nonsense"]));
    }

    #[test]
    fn every_command_has_examples() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let after = command.get_after_help().map(ToString::to_string);
            if command.has_subcommands() {
                commands.extend(command.get_subcommands().cloned());
            } else {
                let has = after.is_some_and(|text| text.contains("Examples:\n  "));
                assert!(has, "{}", command.get_name());
            }
        }
    }
}
