//! Measures how long an image takes from a registry to a template, beside skopeo and umoci.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use which::which;

use crate::workspace::Workspace;
use crate::{build, step};

/// Rounds, and the image.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Measurements of each kind.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// The packages of the image beside Debian's smallest system.
    #[arg(long, default_value = "python3,python3-pip")]
    include: String,
    /// Debian's release.
    #[arg(long, default_value = "bookworm")]
    suite: String,
}

/// Programs that make the image, serve it, and are compared with.
const TOOLS: [&str; 5] = ["mmdebstrap", "docker-registry", "skopeo", "umoci", "time"];

/// Makes an image, serves it from loopback, and prints how long each takes in turns.
///
/// # Errors
/// If a tool is missing or fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    for tool in TOOLS {
        ensure!(
            which(tool).is_ok(),
            "{tool} is missing: `apt-get install {}` has all of them, and starts a registry",
            TOOLS.join(" ")
        );
    }
    let ironclaw = build::set_up(workspace)?;
    let directory = workspace.target().join("pull");
    remove(&directory)?;
    fs::create_dir_all(&directory).context("make a directory")?;
    let image = make_image(&directory, options)?;
    let registry = Registry::start(&directory)?;
    let source = format!("docker://{}/measured", registry.address);
    step::quietly(
        "pushing the image",
        skopeo(&directory).args(["--dest-tls-verify=false", &image, &source]),
    )?;

    let ours = Ours {
        ironclaw,
        state: directory.join("state"),
    };
    // What every template needs is there before: the kernel's package and busybox's.
    ours.run(&["template", "build"])?;
    let mut built = Vec::new();
    let mut peak = 0;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}: ironclaw", options.rounds);
        let build = ["template", "build", "measured", "--from", &source];
        let (took, memory) = timed(|| ours.run(&build))?;
        built.push(took);
        peak = peak.max(memory);
        ours.run(&["template", "delete", "measured"])?;
    }
    let mut copied = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}: skopeo and umoci", options.rounds);
        let copy = || {
            let arguments = ["--src-tls-verify=false", &source, "oci:copied:measured"];
            step::output(skopeo(&directory).args(arguments))?;
            let unpack = ["unpack", "--image", "copied:measured", "unpacked"];
            step::output(Command::new("umoci").args(unpack).current_dir(&directory))
        };
        copied.push(timed(copy)?.0);
        remove(&directory.join("copied"))?;
        remove(&directory.join("unpacked"))?;
    }
    let (built, copied) = (median(&mut built), median(&mut copied));
    println!("registry to template: {:.2} s", built.as_secs_f64());
    println!(
        "skopeo copy and umoci unpack: {:.2} s",
        copied.as_secs_f64()
    );
    println!("ratio: {:.2}", built.as_secs_f64() / copied.as_secs_f64());
    println!(
        "peak memory of ironclaw, and of what it ran: {} MiB",
        peak / 1024
    );
    drop(registry);
    remove(&directory)
}

/// Makes an image in the OCI layout; returns its name for skopeo.
fn make_image(directory: &Path, options: &Options) -> Result<String> {
    let archive = directory.join("root.tar");
    let include = format!("--include={}", options.include);
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", &include, &options.suite])
        .arg(&archive);
    step::quietly("making the image's files", &mut command)?;
    let umoci = |arguments: &[&str]| {
        step::output(Command::new("umoci").args(arguments).current_dir(directory)).map(drop)
    };
    umoci(&["init", "--layout", "image"])?;
    umoci(&["new", "--image", "image:measured"])?;
    umoci(&["raw", "add-layer", "--image", "image:measured", "root.tar"])?;
    fs::remove_file(&archive).context("remove the image's files")?;
    Ok("oci:image:measured".to_owned())
}

fn skopeo(directory: &Path) -> Command {
    let mut command = Command::new("skopeo");
    command
        .args(["--insecure-policy", "copy", "-q"])
        .current_dir(directory);
    command
}

/// `ironclaw` with a state of its own.
struct Ours {
    ironclaw: PathBuf,
    state: PathBuf,
}

impl Ours {
    /// Returns the most memory that it, or one of what it ran, took at a time, in KiB.
    fn run(&self, arguments: &[&str]) -> Result<u64> {
        let report = self.state.with_extension("time");
        let mut command = Command::new("time");
        command
            .args(["-f", "%M", "-o"])
            .arg(&report)
            .arg(&self.ironclaw)
            .args(arguments)
            .env("IRONCLAW_TEMPLATE_PATH", self.state.join("templates"))
            .env("IRONCLAW_SNAPSHOT_PATH", self.state.join("snapshots"))
            .env("IRONCLAW_RUN_PATH", self.state.join("run"));
        step::output(&mut command)?;
        let text = fs::read_to_string(&report).context("read what `time` reported")?;
        text.trim()
            .parse()
            .with_context(|| format!("`time` reported {text:?}"))
    }
}

/// A registry on a port of its own, which ends with this.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(directory: &Path) -> Result<Self> {
        let config = directory.join("registry.yml");
        let root = directory.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n",
            root.display()
        );
        fs::write(&config, text).context("write the registry's configuration")?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(File::create(directory.join("access.log"))?);
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .context("start a registry")?;
        let log = child.stderr.take().context("read the registry's log")?;
        let mut registry = Self {
            child,
            address: String::new(),
        };
        let mut lines = BufReader::new(log).lines();
        for line in lines.by_ref() {
            let line = line.context("read the registry's log")?;
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find([',', '"']).unwrap_or(rest.len());
                registry.address = rest[..end].to_owned();
                // It waits for who reads its log.
                thread::spawn(move || lines.for_each(drop));
                return Ok(registry);
            }
        }
        anyhow::bail!(
            "the registry ended; `docker-registry serve {}` says why",
            config.display()
        )
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed(), result))
}

/// Returns the upper one of two in the middle.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Removes a directory of this bench, if it is there.
fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
