//! Limits that this process has from its control groups.

use std::fs;
use std::path::Path;

/// The mount point of control groups (cgroups(7)).
const CGROUPS: &str = "/sys/fs/cgroup";

/// A limit of a control group, and the files that contain it.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The controller that enforces it.
    pub controller: &'static str,
    /// Its file's name in a version 2 hierarchy.
    pub version_2: &'static str,
    /// Its file's name in a version 1 hierarchy.
    pub version_1: &'static str,
}

impl Limit {
    /// Returns the smallest value in this process's control groups and their ancestors.
    pub fn least(self) -> Option<u64> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        self.least_of(&groups, Path::new(CGROUPS))
    }

    /// Returns the same for the control groups listed in `groups`, in the format of
    /// `/proc/PID/cgroup`.
    fn least_of(self, groups: &str, root: &Path) -> Option<u64> {
        let of_line = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let (mount, file) = match controllers {
                "" => (root.to_owned(), self.version_2),
                _ if controllers.split(',').any(|it| it == self.controller) => {
                    (root.join(self.controller), self.version_1)
                }
                _ => return None,
            };
            // In a container the group's path may not exist: its files are at the root there.
            let above = Path::new(group.trim_start_matches('/')).ancestors();
            let texts =
                above.filter_map(|group| fs::read_to_string(mount.join(group).join(file)).ok());
            // "max" if there is no limit.
            texts
                .filter_map(|text| text.trim().parse::<u64>().ok())
                .min()
        };
        groups.lines().filter_map(of_line).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Limit = Limit {
        controller: "memory",
        version_2: "memory.max",
        version_1: "memory.limit_in_bytes",
    };

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_service_has_the_least_limit_of_the_groups_that_it_is_in() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(MEMORY.least_of("0::/a.slice/b.service\n", root), None);
        write(root, "a.slice/memory.max", "3000000\n");
        write(root, "a.slice/b.service/memory.max", "max\n");
        write(root, "c.slice/memory.max", "1000\n");
        assert_eq!(
            MEMORY.least_of("0::/a.slice/b.service\n", root),
            Some(3_000_000)
        );
        write(root, "a.slice/b.service/memory.max", "2000000\n");
        assert_eq!(
            MEMORY.least_of("0::/a.slice/b.service\n", root),
            Some(2_000_000)
        );
    }

    #[test]
    fn a_container_has_the_limit_of_the_root_that_it_sees() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "memory/memory.limit_in_bytes", "5000000\n");
        let groups = "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n";
        assert_eq!(MEMORY.least_of(groups, root), Some(5_000_000));
        write(root, "memory.max", "4000000\n");
        assert_eq!(MEMORY.least_of(groups, root), Some(4_000_000));
    }
}
