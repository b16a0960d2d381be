//! Runs the fuzz targets with libFuzzer.
//!
//! cargo-fuzz would need a nightly toolchain for its memory sanitizers. The fuzzed code is safe
//! Rust, whose faults are panics: the compiler's coverage pass is enough, and a stable toolchain
//! has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::TRIPLE;
use crate::step;
use crate::workspace::Workspace;

/// The manifest of the targets, a workspace of their own.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// The flags that cargo-fuzz passes, without a sanitizer.
const FLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
                     -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Timeout of one input, after which it counts as hung.
const INPUT_SECONDS: u32 = 30;
/// Memory limit of a target.
const MEMORY_MIB: u32 = 2048;
/// Length limit of an input.
const MAX_BYTES: u32 = 8192;

/// What to fuzz.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each target runs: `60s`, `5m`, `1h`.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Run one input, such as one that broke the target, instead of looking for others.
    #[arg(
        long,
        value_name = "FILE",
        requires = "target",
        conflicts_with = "time"
    )]
    input: Option<PathBuf>,
    /// A file of `fuzz/fuzz_targets`, without its `.rs`; all of them, one after the other, without.
    target: Option<String>,
}

/// Builds the targets and runs them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut targets = targets(workspace)?;
    if let Some(target) = &options.target {
        ensure!(
            targets.contains(target),
            "there is no target {target}: there are {}",
            targets.join(", ")
        );
        targets = vec![target.clone()];
    }
    which::which("c++").context("libFuzzer is C++: install g++ (apt-get install g++)")?;
    let home = workspace.target().join("fuzz");
    build(workspace, &home, options.target.as_deref())?;
    for target in &targets {
        let program = home.join(TRIPLE).join("release").join(target);
        match &options.input {
            Some(input) => step::run(Command::new(program).arg(input))?,
            None => look(workspace, &home, target, &program, options.time)?,
        }
    }
    Ok(())
}

fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.root().join("fuzz/fuzz_targets");
    let entries =
        fs::read_dir(&directory).with_context(|| format!("can't list {}", directory.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

fn build(workspace: &Workspace, home: &Path, target: Option<&str>) -> Result<()> {
    let arguments = [
        "build",
        "--quiet",
        "--release",
        "--target",
        TRIPLE,
        "--manifest-path",
        MANIFEST,
    ];
    let mut build = workspace.cargo(&arguments);
    match target {
        Some(target) => build.args(["--bin", target]),
        None => build.arg("--bins"),
    };
    step::run(
        build
            // Other flags than the workspace's: in one directory, the builds would invalidate each
            // other.
            .env("CARGO_TARGET_DIR", home)
            // Takes precedence over RUSTFLAGS.
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", FLAGS),
    )
}

/// Runs libFuzzer for a time. Keeps interesting inputs for the next run, and inputs that break the
/// target for the developer.
fn look(
    workspace: &Workspace,
    home: &Path,
    target: &str,
    program: &Path,
    time: Duration,
) -> Result<()> {
    let found = home.join("corpus").join(target);
    let broken = home.join("broken").join(target);
    for directory in [&found, &broken] {
        fs::create_dir_all(directory)
            .with_context(|| format!("can't make the directory {}", directory.display()))?;
    }
    let mut command = Command::new(program);
    command
        .arg(&found)
        .arg(workspace.root().join("fuzz/corpus").join(target))
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_len={MAX_BYTES}"))
        .arg(format!("-artifact_prefix={}/", broken.display()))
        .args(["-print_final_stats=1", "-verbosity=0"]);
    if let Err(error) = step::run(&mut command) {
        bail!(
            "{error:#}\nThe input is in {}; `cargo xtask fuzz --input FILE {target}` runs it again. Put it \
             into fuzz/corpus/{target} when the target is mended: the tests run it then.",
            broken.display()
        );
    }
    Ok(())
}
