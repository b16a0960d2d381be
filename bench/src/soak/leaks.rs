//! Compares what a process uses on its host before and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_console::output::blocking;
use ironclaw_orchestrator::template::{Template, TemplateError};
use ironclaw_orchestrator::vm::{Config, Limit};
use procfs::process::{FDTarget, Process};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::children::children;

/// Timeout of the cleanup: threads and descriptors may end a moment after the process that they
/// belong to; what remains then is a leak.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of checks meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);
/// Allowed growth of memory from the first quarter of a soak to its end: an allocator keeps what it
/// had at the busiest moment, in an arena for each thread.
const MEMORY_ALLOWANCE: u64 = 16 << 20;
/// Threads that the runtime keeps for blocking work, and ends when idle for a while.
const RUNTIME_THREADS: u64 = 64;

/// The resources that a process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// Number of child processes, zombies included.
    processes: usize,
    threads: usize,
    descriptors: usize,
    sockets: usize,
    /// Entries below the run directory, and hidden ones among the snapshots, which are staging or
    /// trash.
    paths: Vec<PathBuf>,
}

/// What there was of something, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Comparison {
    pub(super) what: &'static str,
    pub(super) before: u64,
    pub(super) after: u64,
    /// Increase that is no leak.
    pub(super) allowed: u64,
    pub(super) leaked: bool,
    /// Remaining entries that have names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) left: Vec<PathBuf>,
}

impl Comparison {
    pub(super) fn new(what: &'static str, before: u64, after: u64, allowed: u64) -> Self {
        Self {
            what,
            before,
            after,
            allowed,
            leaked: after > before.saturating_add(allowed),
            left: Vec::new(),
        }
    }
}

impl Taken {
    /// Counts the resources now, with the entries below the directories of `config`.
    pub(super) fn now(config: &Config) -> Result<Self> {
        let targets = descriptors()?;
        let is_socket = |target: &&FDTarget| matches!(target, FDTarget::Socket(_));
        let mut paths = below(&config.run_path);
        // A claim is a lock; its file stays.
        paths.retain(|path| !path.starts_with(config.run_path.join(".claims")));
        paths.extend(hidden(&config.snapshot_path));
        Ok(Self {
            processes: children()?.len(),
            threads: threads()?,
            sockets: targets.iter().filter(is_socket).count(),
            descriptors: targets.len(),
            paths,
        })
    }

    /// Waits until no more than `before` is used, or the timeout is over.
    pub(super) async fn settled(before: &Self, config: &Config) -> Result<Self> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let config = config.clone();
            let now = blocking(move || Self::now(&config)).await?;
            let leaked = Self::compare(before, &now).iter().any(|line| line.leaked);
            if !leaked || Instant::now() >= deadline {
                return Ok(now);
            }
            sleep_until(Instant::now() + SETTLE_INTERVAL).await;
        }
    }

    /// Returns what `after` has beyond `before`.
    pub(super) fn compare(before: &Self, after: &Self) -> Vec<Comparison> {
        let count = |what, of: fn(&Self) -> usize, allowed| {
            Comparison::new(what, of(before) as u64, of(after) as u64, allowed)
        };
        let left = after.paths.iter();
        let left = left.filter(|path| !before.paths.contains(path));
        let paths = Comparison {
            left: left.cloned().collect(),
            ..count("files and directories", |taken| taken.paths.len(), 0)
        };
        vec![
            count("child processes", |taken| taken.processes, 0),
            count("threads", |taken| taken.threads, RUNTIME_THREADS),
            count("file descriptors", |taken| taken.descriptors, 0),
            count("sockets", |taken| taken.sockets, 0),
            paths,
        ]
    }
}

/// Checks that the budget is free again.
pub(super) fn budget(used: Limit) -> Vec<Comparison> {
    vec![
        Comparison::new("VMs in the budget", 0, used.vms as u64, 0),
        Comparison::new("MiB in the budget", 0, used.memory_mib, 0),
    ]
}

/// Checks that no guest has changed the files that all of a template share, like the image of its root.
pub(super) fn changes(template: &Template) -> Result<Comparison> {
    let changed = match template.verify() {
        Ok(()) => 0,
        Err(TemplateError::WrongContent { .. }) => 1,
        Err(error) => return Err(error.into()),
    };
    let what = "changed files of the template";
    Ok(Comparison::new(what, 0, changed, 0))
}

/// Checks that memory has not grown.
pub(super) fn memory(first_quarter: u64, end: u64) -> Comparison {
    Comparison::new("bytes of memory", first_quarter, end, MEMORY_ALLOWANCE)
}

/// Returns the resident memory of this process in bytes.
pub(super) fn resident() -> Result<u64> {
    let status = Process::myself().and_then(|process| process.status());
    let status = status.context("can't read the status of this process")?;
    let kibibytes = status.vmrss.context("the kernel does not say VmRSS")?;
    Ok(kibibytes << 10)
}

/// Returns the targets of this process's descriptors.
fn descriptors() -> Result<Vec<FDTarget>> {
    let descriptors = Process::myself().and_then(|process| process.fd());
    let descriptors = descriptors.context("can't list the descriptors of this process")?;
    // One may be closed meanwhile.
    Ok(descriptors
        .filter_map(|descriptor| Some(descriptor.ok()?.target))
        .collect())
}

fn threads() -> Result<usize> {
    let tasks = Process::myself().and_then(|process| process.tasks());
    let tasks = tasks.context("can't list the threads of this process")?;
    Ok(tasks.count())
}

/// Lists everything below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .flat_map(|path| {
            let inner = if path.is_dir() && !path.is_symlink() {
                below(&path)
            } else {
                Vec::new()
            };
            std::iter::once(path).chain(inner)
        })
        .collect()
}

fn hidden(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        let mut config = Config::from_vars(|_| None, true).unwrap();
        config.run_path = directory.join("run");
        config.snapshot_path = directory.join("snapshots");
        config
    }

    fn leaked(before: &Taken, after: &Taken) -> Vec<&'static str> {
        let lines = Taken::compare(before, after).into_iter();
        lines
            .filter(|line| line.leaked)
            .map(|line| line.what)
            .collect()
    }

    #[test]
    fn leaks_are_found_by_kind() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let none = Taken {
            processes: 0,
            threads: 1,
            descriptors: 5,
            sockets: 1,
            paths: Taken::now(&config).unwrap().paths,
        };
        assert!(leaked(&none, &none).is_empty());
        fs::create_dir_all(config.run_path.join(".claims")).unwrap();
        fs::create_dir_all(config.snapshot_path.join("a-snapshot")).unwrap();
        assert!(Taken::now(&config).unwrap().paths.is_empty());
        fs::create_dir_all(config.run_path.join("owner/0")).unwrap();
        fs::create_dir_all(config.snapshot_path.join(".staging-x")).unwrap();
        let more = Taken {
            processes: 1,
            threads: 100,
            descriptors: 6,
            sockets: 2,
            paths: Taken::now(&config).unwrap().paths,
        };
        let all = [
            "child processes",
            "threads",
            "file descriptors",
            "sockets",
            "files and directories",
        ];
        assert_eq!(leaked(&none, &more), all);
        assert!(leaked(&more, &none).is_empty(), "less is no leak");
    }

    #[test]
    fn a_change_of_the_image_that_all_guests_share_is_found() {
        use ironclaw_orchestrator::template::{ImportSpec, TemplateStore};
        let directory = tempfile::tempdir().unwrap();
        let [kernel, image] = ["kernel", "image"].map(|name| directory.path().join(name));
        fs::write(&kernel, "\x7fELF").unwrap();
        fs::write(&image, [7; 1024]).unwrap();
        let spec = ImportSpec {
            kernel,
            initramfs: None,
            root_disk: Some(image),
            boot_args: String::new(),
        };
        let store = TemplateStore::open(directory.path().join("templates")).unwrap();
        let template = store.import(&spec, &mut |_| {}).unwrap();
        assert!(!changes(&template).unwrap().leaked);
        fs::write(template.root_disk().unwrap(), [8; 1024]).unwrap();
        assert!(changes(&template).unwrap().leaked);
    }

    #[test]
    fn a_child_a_descriptor_and_a_socket_of_this_process_count() {
        let config = config(Path::new("/nonexistent"));
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let now = Taken::now(&config).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        drop(pair);
        // Other tests run in the same process.
        assert!(now.processes >= 1 && now.sockets >= 2 && now.descriptors > now.sockets);
        assert!(resident().unwrap() > 1 << 20);
    }

    #[test]
    fn memory_may_grow_by_its_allowance_and_a_budget_by_nothing() {
        assert!(!memory(1 << 20, (1 << 20) + MEMORY_ALLOWANCE).leaked);
        assert!(memory(1 << 20, (2 << 20) + MEMORY_ALLOWANCE).leaked);
        let share = Limit::new(1, 160);
        assert!(budget(share).iter().all(|line| line.leaked));
        assert!(!budget(Limit::default()).iter().any(|line| line.leaked));
    }
}
