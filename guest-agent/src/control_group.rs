//! A control group for each command, to end everything that descends from it, and to learn whether
//! it ran out of memory: a process can leave its session and its parent, but not its group.
//!
//! A process is created in the group of its parent, so the agent enters a command's group, starts
//! the command, and returns. That needs no code in the child, and leaves no moment at which a
//! descendant could escape.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::sysinfo;

use crate::console::say;

/// The mount point of the hierarchy.
const MOUNT: &str = "/sys/fs/cgroup";
/// The parent of all commands' groups.
const COMMANDS: &str = "/sys/fs/cgroup/ironclaw";
/// Counts the processes that the kernel killed for lack of memory, if no controller does.
const VMSTAT: &str = "/proc/vmstat";
/// The weight of all commands together for the processor, where the agent has 100: however many
/// processes they have, the agent is served when it needs to, and leaves them the rest.
const COMMANDS_WEIGHT: u64 = 10;
/// The guest's memory per process allowed to all commands together. A process needs at least half
/// of that, so the maximum of processes does not use up all memory, and the agent can continue.
const MEMORY_PER_PROCESS: u64 = 192 * 1024;
/// The guest's memory per process allowed to one command: more than the above, so that other
/// commands can start and examine one that has reached its limit.
const MEMORY_PER_PROCESS_OF_ONE: u64 = 256 * 1024;
/// Memory that commands can't use, of what is available when none runs. Without it, each free page
/// goes to whichever of hundreds of processes asks first, and the agent is one of them.
const RESERVED: u64 = 6 << 20;
/// Attempts to kill a group process by process, in kernels that can't kill it as a whole (before
/// 5.14).
const MAX_KILL_ROUNDS: u32 = 100;
/// Depth to which groups that a command created below its own are removed.
const MAX_DEPTH: u32 = 8;

/// The groups of all commands.
#[derive(Debug)]
pub(crate) struct ControlGroups {
    /// The agent's own group; `None` if the kernel has no control groups of version 2.
    home: Option<File>,
    /// Whether groups count memory.
    memory: bool,
    /// Limit of a command's processes, if groups count them.
    processes: Option<u64>,
    made: Vec<Rc<Path>>,
    next: u64,
    /// The group of the next command, created in advance.
    prepared: Option<ControlGroup>,
}

/// The group of one command.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: Rc<Path>,
    /// The guest's count of OOM kills when the command started, if there is no memory controller.
    killed_before: Option<u64>,
}

impl ControlGroups {
    /// Creates the parent of all groups. Reports failures on the console: commands run without
    /// groups then.
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
        let total = memory_of_guest();
        let left = available_memory().map(|bytes| bytes.saturating_sub(RESERVED));
        let is_there = home.is_some();
        if is_there {
            bound("+cpu", "cpu.weight", Some(COMMANDS_WEIGHT));
        }
        let memory = is_there && bound("+memory", "memory.max", left);
        let processes = is_there && bound("+pids", "pids.max", Some(total / MEMORY_PER_PROCESS));
        let mut groups = Self {
            home,
            memory,
            processes: processes.then_some(total / MEMORY_PER_PROCESS_OF_ONE),
            made: Vec::new(),
            next: 0,
            prepared: None,
        };
        groups.prepare();
        groups
    }

    /// Creates a group for the next command, and removes those of commands that have ended.
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
        if let Some(processes) = self.processes {
            // A limit for all commands together exists in any case.
            let _ = write(&path.join("pids.max"), &processes.to_string());
        }
        Some(ControlGroup {
            path,
            killed_before: None,
        })
    }

    /// Calls `start` in a group of its own, if there can be one.
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

    /// Kills all its processes.
    pub(crate) fn kill(&self) {
        if write(&self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Processes forked during one round are found in the next.
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

    /// Returns whether the kernel killed one of its processes for lack of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let killed = match self.killed_before {
            None => counter(&self.path.join("memory.events")),
            Some(before) => counter(VMSTAT.as_ref()).map(|now| now.saturating_sub(before)),
        };
        killed.is_some_and(|killed| killed > 0)
    }
}

/// Mounts the hierarchy, with an option that avoids waiting for all processors at each move into a
/// group; kernels before 6.0 lack it.
fn mount_hierarchy() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |options| mount("cgroup2", MOUNT, "cgroup2", flags, Some(options));
    match mount(c"favordynmods").or_else(|_| mount(c"")) {
        // The kernel, or an earlier agent, may have mounted it already.
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

/// Enables a controller for the groups of commands, with a limit for all of them together; returns
/// whether it is enabled.
fn bound(controller: &str, limit: &str, value: Option<u64>) -> bool {
    let on = turn_on(controller);
    let bounded = match (&on, value) {
        (Ok(()), Some(value)) => write(&Path::new(COMMANDS).join(limit), &value.to_string()),
        (Ok(()), None) => Err(io::ErrorKind::NotFound.into()),
        (Err(_), _) => Ok(()),
    };
    for error in [on.as_ref().err(), bounded.as_ref().err()]
        .into_iter()
        .flatten()
    {
        say(format_args!(
            "bound all commands by {limit}: {error}; they may starve the agent"
        ));
    }
    on.is_ok()
}

fn turn_on(controller: &str) -> io::Result<()> {
    [MOUNT, COMMANDS]
        .iter()
        .try_for_each(|path| write(&Path::new(path).join("cgroup.subtree_control"), controller))
}

fn memory_of_guest() -> u64 {
    let memory = sysinfo();
    memory.totalram.saturating_mul(memory.mem_unit.into())
}

/// Returns the bytes that programs could use now.
fn available_memory() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let mut lines = table.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Writes to a kernel file, which may not exist.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Reads the line `oom_kill` of a file of counters.
fn counter(path: &Path) -> Option<u64> {
    let counters = fs::read_to_string(path).ok()?;
    let mut lines = counters.lines();
    let count = lines.find_map(|line| line.strip_prefix("oom_kill "))?;
    count.parse().ok()
}

/// Removes a group without processes, and the groups that the command created below it.
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
            processes: None,
            made: Vec::new(),
            next: 0,
            prepared: None,
        };
        let (started, group) = groups.start(|| 7);
        assert!(started == 7 && group.is_none());
    }
}
