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
use rustix::system::sysinfo;

use crate::console::say;

/// Where the hierarchy is mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// The directory of all commands' groups.
const COMMANDS: &str = "/sys/fs/cgroup/ironclaw";
/// Says how many processes the kernel killed for lack of memory, where no controller counts them.
const VMSTAT: &str = "/proc/vmstat";
/// Share of the processor of all commands together, where the agent has 100: however many processes
/// they have, it is served when it has something to do, and leaves them the rest.
const COMMANDS_WEIGHT: u64 = 10;
/// Memory of the guest for each process of all commands together. The least that one takes is half of
/// that, so as many as there may be do not take all memory, and the agent goes on.
const MEMORY_PER_PROCESS: u64 = 192 * 1024;
/// Memory of the guest for each process of one command: more than the above, so that others start and
/// can look after one that has as many as it may.
const MEMORY_PER_PROCESS_OF_ONE: u64 = 256 * 1024;
/// What commands can't take of the memory that is available when none runs. Without it each page that
/// the kernel finds goes to whichever of hundreds asks first, and the agent is one of them.
const RESERVED: u64 = 6 << 20;
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
    /// Most processes of one command, where groups count them.
    processes: Option<u64>,
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
        if let Some(processes) = self.processes {
            // All commands together have a limit in any case.
            let _ = write(&path.join("pids.max"), &processes.to_string());
        }
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

/// Turns a controller on for the groups of commands, with a limit for all of them together; whether
/// it is on.
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

/// Bytes that programs could take now.
fn available_memory() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let mut lines = table.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
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
            processes: None,
            made: Vec::new(),
            next: 0,
            prepared: None,
        };
        let (started, group) = groups.start(|| 7);
        assert!(started == 7 && group.is_none());
    }
}
