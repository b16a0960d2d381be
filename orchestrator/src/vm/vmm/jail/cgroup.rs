//! Limits a jailed VM's use of the host by control groups, version 1 or 2.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use ironclaw_host::disk;

use crate::vm::vmm::Machine;

/// The parent of all VMs' groups.
const PARENT: &str = "ironclaw";
/// Memory for Firecracker beyond the guest's: it needs 5 MiB (its SPECIFICATION.md), and the page
/// cache of files that it reads counts here too, though it can be reclaimed.
const OVERHEAD_BYTES: u64 = 64 << 20;
/// Memory that a group may have charged when the next VM joins it.
const MAX_LEFT_BYTES: u64 = OVERHEAD_BYTES / 4;
/// Threads beyond the guest's vCPUs: the main one, the API's, and some for devices.
const EXTRA_THREADS: u32 = 8;
/// The period of processor time quotas, in microseconds.
const PERIOD_MICROS: u32 = 100_000;
/// Largest weight of a group, in those of a process: 10000 of 100 in version 2 (the kernel's
/// cgroup-v2.rst), less than version 1 takes.
const MAX_WEIGHT: usize = 100;

/// The hierarchies of this host that can limit memory, processor time and processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vm) struct Cgroups {
    version: Version,
    /// The mount points of the controllers.
    mounts: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Returns the memory that a snapshot takes beside that of its guest: all of that once more where the files of
/// `directory` are in memory, or the kernel would kill the VMM that writes it.
pub(in crate::vm) fn written_in_memory(directory: &Path, machine: Machine) -> io::Result<u64> {
    Ok(match disk::is_in_memory(directory)? {
        true => machine.memory_bytes(),
        false => 0,
    })
}

impl Cgroups {
    /// Finds the hierarchies of this host; `None` if a controller is missing.
    pub(in crate::vm) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        Self::among(&mounts, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    /// Finds them in the text of `/proc/mounts`; `controllers` reads those of a version 2
    /// hierarchy.
    fn among(mounts: &str, controllers: impl Fn(&Path) -> String) -> Option<Self> {
        let mounts: Vec<[&str; 4]> = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                Some([
                    fields.next()?,
                    fields.next()?,
                    fields.next()?,
                    fields.next()?,
                ])
            })
            .collect();
        let unified = mounts.iter().find(|mount| mount[2] == "cgroup2");
        if let Some([_, root, ..]) = unified {
            let root = PathBuf::from(root);
            let has = controllers(&root);
            let has: Vec<&str> = has.split_whitespace().collect();
            if CONTROLLERS
                .iter()
                .all(|controller| has.contains(controller))
            {
                return Some(Self {
                    version: Version::V2,
                    mounts: vec![root],
                });
            }
        }
        let mounted = |controller: &str| {
            let has = |mount: &&[&str; 4]| {
                mount[2] == "cgroup" && mount[3].split(',').any(|option| option == controller)
            };
            mounts.iter().find(has).map(|mount| PathBuf::from(mount[1]))
        };
        let mounts: Option<Vec<_>> = CONTROLLERS.iter().map(|c| mounted(c)).collect();
        Some(Self {
            version: Version::V1,
            mounts: mounts?,
        })
    }

    /// Creates the groups of a VM of this size called `id`, whose files are in `directory`. Nothing is
    /// removed with them.
    pub(in crate::vm) fn of_machine(
        &self,
        id: &str,
        machine: Machine,
        directory: &Path,
    ) -> io::Result<Cgroup> {
        let memory = machine.memory_bytes() + written_in_memory(directory, machine)?;
        let memory = memory + OVERHEAD_BYTES;
        let processes = u32::from(machine.vcpus) + EXTRA_THREADS;
        self.create(id, PathBuf::new(), memory, machine.vcpus, processes)
    }

    fn limits(&self, memory: u64, vcpus: u8, processes: u32) -> Vec<(&'static str, String)> {
        let quota = u32::from(vcpus) * PERIOD_MICROS;
        match self.version {
            Version::V1 => vec![
                ("memory.limit_in_bytes", memory.to_string()),
                ("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
                ("pids.max", processes.to_string()),
            ],
            Version::V2 => vec![
                ("memory.max", memory.to_string()),
                ("memory.swap.max", "0".to_owned()),
                ("cpu.max", format!("{quota} {PERIOD_MICROS}")),
                ("pids.max", processes.to_string()),
            ],
        }
    }

    /// Creates the group above those of all VMs in the hierarchy of the processors, unless it exists,
    /// and gives it the weight of one process on each of them. By default it would weigh as one on the
    /// whole host: beside any other busy process a VM would get next to nothing. The administrator may
    /// change the weight; it is set once.
    fn create_parent(&self) -> io::Result<()> {
        let (file, of_one) = match self.version {
            Version::V1 => ("cpu.shares", 1024),
            Version::V2 => ("cpu.weight", 100),
        };
        let mount = self.directory(file);
        let parent = mount.join(PARENT);
        match fs::create_dir(&parent) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            created => created?,
        }
        if self.version == Version::V2 {
            fs::write(mount.join("cgroup.subtree_control"), "+cpu")?;
        }
        let processors = available_parallelism().map_or(1, usize::from);
        let weight = (processors * of_one).min(of_one * MAX_WEIGHT);
        fs::write(parent.join(file), weight.to_string())
    }

    /// Creates the groups of a process called `id`. `mark` is a directory that is removed with
    /// them, and its parent too.
    pub(in crate::vm) fn create(
        &self,
        id: &str,
        mark: PathBuf,
        memory: u64,
        vcpus: u8,
        processes: u32,
    ) -> io::Result<Cgroup> {
        let group = Cgroup {
            cgroups: self.clone(),
            id: id.to_owned(),
            mark,
        };
        self.create_parent()?;
        for mount in &self.mounts {
            let parent = mount.join(PARENT);
            fs::create_dir_all(&parent)?;
            if self.version == Version::V2 {
                let controllers = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
                for group in [mount, &parent] {
                    fs::write(group.join("cgroup.subtree_control"), &controllers)?;
                }
            }
            fs::create_dir_all(parent.join(id))?;
        }
        for (file, value) in self.limits(memory, vcpus, processes) {
            let directory = self.directory(file).join(PARENT).join(id);
            match fs::write(directory.join(file), value) {
                // A kernel without swap has no limit of it.
                Err(error) if error.kind() == ErrorKind::NotFound && file.contains("swap") => {}
                written => written?,
            }
        }
        Ok(group)
    }

    /// Tests whether groups can be created here, by creating one: a container may see the
    /// hierarchies without the right to change them.
    pub(in crate::vm) fn try_out(&self) -> io::Result<()> {
        let id = format!("trial-{}", uuid::Uuid::new_v4().simple());
        self.create(&id, PathBuf::new(), OVERHEAD_BYTES, 1, EXTRA_THREADS)
            .map(drop)
    }

    /// Returns the mount point of the controller that has a file of this name.
    fn directory(&self, file: &str) -> &Path {
        let controller = CONTROLLERS.iter().position(|name| file.starts_with(name));
        let mount = controller.and_then(|index| self.mounts.get(index));
        mount.unwrap_or(&self.mounts[0])
    }

    /// Removes the groups of the VM `id`, which must have ended.
    pub(in crate::vm) fn remove(&self, id: &str) {
        for mount in &self.mounts {
            let group = mount.join(PARENT).join(id);
            match fs::remove_dir(&group) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(path = %group.display(), %error, "a control group stays");
                }
                _ => {}
            }
        }
    }
}

/// The control groups of a process started without a jailer. Drop removes them; the process must
/// have ended.
#[derive(Debug)]
pub(in crate::vm) struct Cgroup {
    cgroups: Cgroups,
    id: String,
    mark: PathBuf,
}

impl Cgroup {
    /// Opens the files by which a process joins them.
    pub(in crate::vm) fn entrances(&self) -> io::Result<Vec<File>> {
        let groups = self.cgroups.mounts.iter();
        let open = |mount: &PathBuf| {
            let path = mount.join(PARENT).join(&self.id).join("cgroup.procs");
            File::options().write(true).open(path)
        };
        groups.map(open).collect()
    }

    /// Returns whether hardly anything is charged to them: files that a VM was the first to read or
    /// write stay charged, whoever else uses them, and count against the limit of the next VM.
    pub(in crate::vm) fn is_blank(&self) -> bool {
        let file = match self.cgroups.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        let directory = self.cgroups.directory(file).join(PARENT).join(&self.id);
        let read = fs::read_to_string(directory.join(file)).ok();
        let charged = read.and_then(|text| text.trim().parse::<u64>().ok());
        charged.is_some_and(|bytes| bytes <= MAX_LEFT_BYTES)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.cgroups.remove(&self.id);
        // Removes the mark last: by it the next start finds groups that could not be removed.
        let _ = fs::remove_dir(&self.mark);
        if let Some(parent) = self.mark.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
/// Parses a text of `/proc/mounts`, which anybody who mounts something influences.
pub(crate) fn fuzz(mounts: &str) {
    let _ = Cgroups::among(mounts, |_| "memory cpu pids".to_owned());
    let _ = Cgroups::among(mounts, |_| String::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
";

    fn line(cgroups: &Cgroups) -> String {
        format!("{:?}", cgroups.limits(192 << 20, 2, 10))
    }

    #[test]
    fn a_hybrid_host_is_limited_by_version_1() {
        let cgroups = Cgroups::among(V1, |_| String::new()).unwrap();
        assert_eq!(cgroups.version, Version::V1);
        assert_eq!(cgroups.mounts[1], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let line = line(&cgroups);
        let memory = r#"("memory.limit_in_bytes", "201326592")"#;
        assert!(line.contains(memory), "{line}");
        assert!(line.contains(r#"("cpu.cfs_quota_us", "200000")"#), "{line}");
    }

    #[test]
    fn a_hierarchy_that_can_not_be_changed_is_told_and_keeps_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mounts = vec![directory.path().to_owned()];
        let version = Version::V2;
        // A plain directory accepts any file, but creates none by itself.
        let ordinary = Cgroups { version, mounts };
        let mark = directory.path().join("mark/of");
        fs::create_dir_all(&mark).unwrap();
        let group = ordinary.create("id", mark.clone(), 1 << 20, 2, 3).unwrap();
        let limit = directory.path().join("ironclaw/id/cpu.max");
        assert_eq!(fs::read_to_string(limit).unwrap(), "200000 100000");
        let weight = directory.path().join("ironclaw/cpu.weight");
        let processors = available_parallelism().unwrap().get();
        let set = fs::read_to_string(&weight).unwrap();
        assert_eq!(set, (processors.min(MAX_WEIGHT) * 100).to_string());
        fs::write(&weight, "7").unwrap();
        drop(ordinary.create("other", PathBuf::new(), 1 << 20, 2, 3));
        assert_eq!(
            fs::read_to_string(weight).unwrap(),
            "7",
            "an administrator's"
        );
        let charged = directory.path().join("ironclaw/id/memory.current");
        for (bytes, blank) in [("4096\n", true), ("16777217\n", false), ("?", false)] {
            fs::write(&charged, bytes).unwrap();
            assert_eq!(group.is_blank(), blank, "{bytes}");
        }
        let machine = Machine {
            memory_mib: 128,
            vcpus: 2,
            disk_mib: None,
        };
        // A snapshot that is written to a tmpfs counts once more.
        for (files, bytes) in [("/proc", "201326592"), ("/dev/shm", "335544320")] {
            let of_machine = ordinary.of_machine("vm", machine, Path::new(files));
            let limit = directory.path().join("ironclaw/vm/memory.max");
            assert_eq!(fs::read_to_string(limit).unwrap(), bytes, "{files}");
            drop(of_machine.unwrap());
        }
        drop(group);
        assert!(!mark.exists() && !mark.with_file_name("mark").exists());
        let mounts = vec!["/proc".into()];
        Cgroups { version, mounts }.try_out().unwrap_err();
    }

    #[test]
    fn a_modern_host_is_limited_by_version_2() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let cgroups = Cgroups::among(mounts, |_| "cpuset cpu io memory pids\n".to_owned());
        let line = line(&cgroups.unwrap());
        assert!(line.contains(r#"("memory.max", "201326592")"#), "{line}");
        assert!(line.contains(r#"("pids.max", "10")"#), "{line}");
    }

    #[test]
    fn a_host_that_lacks_a_controller_has_no_limits() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(Cgroups::among(mounts, |_| "cpu memory".to_owned()), None);
        assert_eq!(Cgroups::among("", |_| String::new()), None);
        let without = V1.replace(",memory ", " ");
        assert_eq!(Cgroups::among(&without, |_| String::new()), None);
    }
}
