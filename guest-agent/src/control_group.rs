//! A control group for each command, so that all that descends from one can be ended, and what it
//! died of be told: a process leaves its session and its parent, but not its group.
//!
//! A process is born into the group of the one that forks it, so the agent enters a command's group,
//! starts it, and goes home. That takes no code in the child, and leaves no moment at which a child
//! of the command could escape.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};

use crate::console::say;

/// Where the hierarchy is mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// The directory of all commands' groups.
const COMMANDS: &str = "/sys/fs/cgroup/ironclaw";
/// Says how many processes the kernel killed for lack of memory, where no controller counts them.
const VMSTAT: &str = "/proc/vmstat";
/// Looks at a group that is being killed, in a kernel that can't kill one as a whole (before 5.14).
const MAX_KILL_ROUNDS: u32 = 100;
/// How far groups that a command made below its own are followed, to be removed.
const MAX_DEPTH: u32 = 8;

/// All groups of commands.
#[derive(Debug)]
pub(crate) struct ControlGroups {
    /// Where the agent itself is; absent if the kernel has no control groups of version 2.
    home: Option<File>,
    /// Whether groups count memory.
    memory: bool,
    made: Vec<Rc<Path>>,
    next: u64,
    /// For the next command, so that it need not wait for one to be made.
    prepared: Option<ControlGroup>,
}

/// One command's group.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: Rc<Path>,
    /// Without a controller of memory: what the whole guest had killed when the command started.
    killed_before: Option<u64>,
}

impl ControlGroups {
    /// Makes the directory of groups. What fails is reported on the console: commands run without.
    pub(crate) fn set_up() -> Self {
        let home = match make_directory() {
            Ok(home) => Some(home),
            Err(error) => {
                say(format_args!(
                    "control groups in {MOUNT}: {error}; processes that leave a command's process \
                     group will outlive it"
                ));
                None
            }
        };
        if home.is_some() && !turn_on("+cpu") {
            say(format_args!(
                "control groups have no shares of the processor; many processes may starve the agent"
            ));
        }
        let memory = home.is_some() && turn_on("+memory");
        let mut groups = Self {
            home,
            memory,
            made: Vec::new(),
            next: 0,
            prepared: None,
        };
        groups.prepare();
        groups
    }

    /// Makes a group for the next command, and removes those of commands that left nothing.
    pub(crate) fn prepare(&mut self) {
        if self.home.is_none() || self.prepared.is_some() {
            return;
        }
        self.made
            .retain(|path| Rc::strong_count(path) > 1 || remove(path, MAX_DEPTH).is_err());
        self.prepared = self.make();
    }

    fn make(&mut self) -> Option<ControlGroup> {
        let path: Rc<Path> = PathBuf::from(format!("{COMMANDS}/{}", self.next)).into();
        self.next += 1;
        fs::create_dir(&path).ok()?;
        self.made.push(Rc::clone(&path));
        Some(ControlGroup {
            path,
            killed_before: None,
        })
    }

    /// Does `start` in a group of its own, if there can be one.
    pub(crate) fn start<T>(&mut self, start: impl FnOnce() -> T) -> (T, Option<ControlGroup>) {
        self.prepare();
        let entered = self.prepared.take().filter(ControlGroup::enter);
        let (Some(home), Some(mut group)) = (&mut self.home, entered) else {
            return (start(), None);
        };
        if !self.memory {
            group.killed_before = Some(counter(VMSTAT.as_ref()).unwrap_or(0));
        }
        let started = start();
        if let Err(error) = home.write_all(b"0") {
            say(format_args!(
                "leave the control group of a command: {error}"
            ));
        }
        (started, Some(group))
    }
}

impl ControlGroup {
    fn enter(&self) -> bool {
        write(&self.path.join("cgroup.procs"), "0").is_ok()
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        if write(&self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // What is forked during a look is found by the next.
        for _ in 0..MAX_KILL_ROUNDS {
            let processes = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            let mut found = false;
            for pid in processes.lines().filter_map(|line| line.parse().ok()) {
                if let Some(pid) = Pid::from_raw(pid) {
                    found |= kill_process(pid, Signal::KILL).is_ok();
                }
            }
            if !found {
                return;
            }
        }
    }

    /// Whether the kernel killed a process in it for lack of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let killed = match self.killed_before {
            None => counter(&self.path.join("memory.events")),
            Some(before) => counter(VMSTAT.as_ref()).map(|now| now.saturating_sub(before)),
        };
        killed.is_some_and(|killed| killed > 0)
    }
}

/// Mounts the hierarchy. To enter a group need not wait for all processors with that option, which
/// kernels before 6.0 do not have.
fn mount_hierarchy() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |options| mount("cgroup2", MOUNT, "cgroup2", flags, Some(options));
    match mount(c"favordynmods").or_else(|_| mount(c"")) {
        // The kernel, or an earlier agent, has mounted it already.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn make_directory() -> io::Result<File> {
    mount_hierarchy()?;
    match fs::create_dir(COMMANDS) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .open(Path::new(MOUNT).join("cgroup.procs"))
}

/// Turns a controller on for the groups of commands.
///
/// That of the processor gives all commands together a share no larger than the agent's, and each of
/// them the same: however many processes one has, the agent ends it at its limit and serves others.
fn turn_on(controller: &str) -> bool {
    [MOUNT, COMMANDS]
        .iter()
        .all(|path| write(&Path::new(path).join("cgroup.subtree_control"), controller).is_ok())
}

/// Writes to a file of the kernel's, which is there or not.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The line `oom_kill` of a file of counters.
fn counter(path: &Path) -> Option<u64> {
    let counters = fs::read_to_string(path).ok()?;
    let mut lines = counters.lines();
    let count = lines.find_map(|line| line.strip_prefix("oom_kill "))?;
    count.parse().ok()
}

/// Removes a group without processes, with those that the command made below it.
fn remove(path: &Path, depth: u32) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) if depth > 0 => {
            for entry in fs::read_dir(path)?.flatten() {
                if entry.file_type()?.is_dir() {
                    remove(&entry.path(), depth - 1)?;
                }
            }
            fs::remove_dir(path)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_killed_processes_is_found_among_others() {
        let directory = tempfile::tempdir().unwrap();
        let events = directory.path().join("memory.events");
        assert_eq!(counter(&events), None);
        fs::write(&events, "low 0\noom 7\noom_kill 3\noom_group_kill 1\n").unwrap();
        assert_eq!(counter(&events), Some(3));
    }

    #[test]
    fn a_group_is_removed_with_those_below_it() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().join("7");
        fs::create_dir_all(group.join("a/b")).unwrap();
        remove(&group, MAX_DEPTH).unwrap();
        assert!(!group.exists());
        remove(&group, MAX_DEPTH).unwrap();
    }

    #[test]
    fn without_control_groups_a_command_is_started_all_the_same() {
        let mut groups = ControlGroups {
            home: None,
            memory: false,
            made: Vec::new(),
            next: 0,
            prepared: None,
        };
        let (started, group) = groups.start(|| 7);
        assert!(started == 7 && group.is_none());
    }
}
