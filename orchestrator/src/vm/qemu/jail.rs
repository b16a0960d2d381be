//! The jail of a QEMU process, which confines a guest that takes QEMU over.
//!
//! | strength | who has it | other files | other processes | network | resources |
//! |---|---|---|---|---|---|
//! | `OwnUser` | root | a user id and a root directory of its own | a PID namespace | an empty namespace | control group |
//! | `UserNamespace` | any user whom the kernel lets make one | a root directory | a PID namespace | an empty namespace | limits of the process |
//! | `Landlock` | any user | what it may read is listed | signals (Linux 6.12), ptrace | no TCP (Linux 6.7) | limits of the process |
//! | `Filters` | any user | nothing new can be written | none can be signalled | no new socket | limits of the process |
//!
//! Each strength includes the ones below it, except Landlock, which namespaces make redundant. All
//! drop capabilities, set no_new_privs, use the filters of QEMU's sandbox and ours (see `filter`),
//! and get a read-only descriptor of the snapshot's memory (see `sys::supply`).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_host::file_access::FileAccess;
use ironclaw_host::system_files;
use rustix::fs::{Gid, Uid};
use rustix::process::{Resource, getegid, geteuid};

use super::filter::filter;
use crate::disk;
use crate::sys::confine::{self, Confinement, Namespaces, Root, Step};
use crate::vm::vmm::jail::cgroup::{Cgroup, Cgroups};
use crate::vm::vmm::jail::readable_by;
use crate::vm::vmm::jail::user::{Turn, User, user};
use crate::vm::vmm::run_directory::{self, RunDirectory};
use crate::vm::vmm::{Machine, VmmError};

const KVM: &str = "/dev/kvm";
/// Mount point of a trial's root directory, in a mount namespace of its own: a directory that each
/// host has, and that nothing of a root directory is taken from.
const TRIED_OVER: &str = "/proc";

/// Bytes that a VM which makes a snapshot may write to a file, beyond its memory.
const EXTRA_FILE: u64 = 64 << 20;
/// Address space beyond the guest's memory: QEMU uses some 600 MB, most of it libraries and stacks
/// of threads that are never touched.
const EXTRA_ADDRESSES: u64 = 4 << 30;
/// Memory beyond the guest's, for the translation cache, QEMU itself, and the page cache of files
/// that it reads, which counts here too.
const OVERHEAD: u64 = 256 << 20;
/// Processors beyond the guest's: devices and QEMU's own start run on other threads. With only as
/// many as the guest has, a guest that keeps all of its own busy would be throttled in each period.
const OWN_PROCESSORS: u8 = 1;
/// Threads beyond the guest's vCPUs. QEMU exits when it can't start one.
const THREADS: u32 = 32;
/// Threads that read and write a guest's disks (THREAD_POOL_MAX_THREADS_DEFAULT of QEMU).
const DISK_THREADS: u32 = 64;
const DESCRIPTORS: u64 = 1024;

/// The strength of a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strength {
    /// Namespaces, a root directory and a user id of its own.
    OwnUser,
    /// Namespaces and a root directory of its own, as this user.
    UserNamespace,
    /// As this user, with access to a few files only.
    Landlock,
    /// As this user, with filtered system calls only.
    Filters,
    /// No jail (`jail=off`): only the filters of QEMU's own sandbox.
    Off,
}

/// A jail for QEMU processes.
#[derive(Debug)]
pub struct Jail {
    strength: Strength,
    /// The stronger ones that were tried, with the reason why each failed.
    refused: Vec<(Strength, String)>,
    users: RangeInclusive<u32>,
    turn: Turn,
    cgroups: Option<Cgroups>,
    /// The existing [`system_files`], and those of a program installed elsewhere.
    system: Vec<PathBuf>,
}

/// The needs of a QEMU process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role<'a> {
    pub(super) machine: Machine,
    /// Files that it opens by path.
    pub(super) reads: &'a [&'a Path],
    /// Whether it writes a snapshot.
    pub(super) writes: bool,
    pub(super) has_ram_file: bool,
    pub(super) has_kvm: bool,
}

/// The resources of a jailed process on the host, until it has ended.
#[derive(Debug)]
pub(super) struct Cell {
    _user: Option<User>,
    cgroup: Option<Cgroup>,
}

impl Cell {
    /// Opens the files by which its process joins its control groups.
    pub(super) fn entrances(&self) -> io::Result<Vec<File>> {
        self.cgroup
            .as_ref()
            .map_or(Ok(Vec::new()), Cgroup::entrances)
    }
}

impl Jail {
    /// Creates no jail, for `jail=off`.
    #[must_use]
    pub fn off() -> Self {
        Self::new(Strength::Off, 0..=0)
    }

    fn new(strength: Strength, users: RangeInclusive<u32>) -> Self {
        Self {
            strength,
            refused: Vec::new(),
            users,
            turn: Turn::default(),
            cgroups: None,
            system: system_files::present(),
        }
    }

    /// Finds the strongest jail that this process can build for `program`, by trying. As root, each
    /// process gets a user id of `users`.
    ///
    /// # Errors
    /// [`VmmError::Io`] if none can be tried.
    pub fn find(program: &Path, users: RangeInclusive<u32>) -> Result<Self, VmmError> {
        Self::at_most(Strength::OwnUser, program, users)
    }

    /// Does the same without trying anything stronger than `strength`.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub fn at_most(
        strength: Strength,
        program: &Path,
        users: RangeInclusive<u32>,
    ) -> Result<Self, VmmError> {
        let mut jail = Self::new(strength, users);
        jail.system.extend(system_files::beside(program));
        let weaker = Strength::TRIED.into_iter().skip_while(|it| *it != strength);
        for strength in weaker {
            jail.strength = strength;
            let tried = if strength == Strength::OwnUser && !is_for_all(program) {
                Err("its program can't be executed by other users".to_owned())
            } else {
                jail.try_out()
            };
            match tried {
                Ok(()) => break,
                Err(reason) => jail.refused.push((strength, reason)),
            }
            jail.strength = Strength::Off;
        }
        if jail.strength == Strength::OwnUser {
            jail.cgroups = Cgroups::find().filter(|cgroups| {
                let made = cgroups.try_out();
                if let Err(error) = &made {
                    tracing::debug!(%error, "control groups can't be made");
                }
                made.is_ok()
            });
            if jail.cgroups.is_none() {
                tracing::warn!(
                    "QEMU's processes are not limited: the control group controllers memory, cpu \
                     and pids are not all here, or can't be used"
                );
            }
        }
        Ok(jail)
    }

    /// Returns this jail, for users who require one.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if it has no namespaces.
    pub fn or_error(self, program: &Path) -> Result<Self, VmmError> {
        if self.strength.has_namespaces() {
            return Ok(self);
        }
        Err(VmmError::Unusable {
            program: "the jail of QEMU",
            path: program.to_owned(),
            reason: format!(
                "{}; run as root with CAP_SYS_ADMIN, let users make user namespaces, or set \
                 `jail` to auto or off",
                self.why_no_stronger().unwrap_or_default()
            ),
        })
    }

    fn try_out(&self) -> Result<(), String> {
        if self.strength == Strength::OwnUser && !geteuid().is_root() {
            return Err("this user is not root".to_owned());
        }
        if self.strength == Strength::Landlock && confine::landlock_version() == 0 {
            return Err("this kernel has no Landlock, or it is switched off".to_owned());
        }
        let role = Role {
            machine: Machine {
                memory_mib: 128,
                vcpus: 1,
                disk_mib: None,
            },
            reads: &[],
            writes: false,
            has_ram_file: true,
            has_kvm: Path::new(KVM).exists() && self.strength == Strength::OwnUser,
        };
        let user = (self.strength == Strength::OwnUser).then(|| self.group());
        self.confinement(role, Path::new(TRIED_OVER), user)
            .and_then(Confinement::try_out)
            .map_err(|error| error.to_string())
    }

    /// Returns its strength.
    #[must_use]
    pub fn strength(&self) -> Strength {
        self.strength
    }

    /// Returns whether a process has namespaces and a root directory of its own.
    pub(super) fn has_root(&self) -> bool {
        matches!(self.strength, Strength::OwnUser | Strength::UserNamespace)
    }

    /// Lists the enforced restrictions.
    #[must_use]
    pub fn in_force(&self) -> Vec<&'static str> {
        let mut all = match self.strength {
            Strength::OwnUser => vec![
                "a user id of its own",
                "a root directory, PID, mount, network, IPC and UTS namespaces of its own",
            ],
            Strength::UserNamespace => vec![
                "a root directory, user, PID, mount, network, IPC and UTS namespaces of its own",
            ],
            Strength::Landlock => {
                let mut all = vec!["Landlock: files to read are listed, none can be written"];
                if confine::landlock_version() >= 4 {
                    all.push("no TCP");
                }
                if confine::landlock_version() >= 6 {
                    all.push("no signals to others");
                }
                all
            }
            Strength::Filters | Strength::Off => Vec::new(),
        };
        if self.strength != Strength::Off {
            all.extend([
                "no capabilities",
                "filtered system calls (QEMU's sandbox and ours)",
                "limits",
            ]);
        } else {
            all.push("QEMU's own sandbox");
        }
        if self.cgroups.is_some() {
            all.push("a control group");
        }
        all.push("its snapshot's memory read-only");
        all
    }

    /// Lists the restrictions that a stronger jail would have.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        if self.strength != Strength::OwnUser {
            all.push("a user id of its own");
        }
        if !self.strength.has_namespaces() {
            all.push("namespaces and a root directory of its own");
        }
        if self.strength == Strength::Off {
            all.extend(["our filters of system calls", "limits"]);
        }
        if self.cgroups.is_none() {
            all.push("a control group (memory, processor time, processes)");
        }
        all
    }

    /// Returns why no stronger jail is possible for this user; `None` if there is none, or none is
    /// wanted.
    #[must_use]
    pub fn why_no_stronger(&self) -> Option<String> {
        let could_be = if geteuid().is_root() {
            Strength::OwnUser
        } else {
            Strength::UserNamespace
        };
        let refused = self.refused.iter();
        let reasons: Vec<_> = refused
            .filter(|(strength, _)| *strength != Strength::OwnUser || could_be == *strength)
            .map(|(strength, reason)| format!("{strength}: {reason}"))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Prepares the jail of one more process of `run`, for the needs of its `role`.
    pub(super) fn cell(
        self: &Arc<Self>,
        role: Role<'_>,
        run: &RunDirectory,
    ) -> io::Result<(Confinement, Cell)> {
        let own_user =
            (self.strength == Strength::OwnUser).then(|| user(&self.users, &self.turn, run.root()));
        let own_user = own_user.transpose()?;
        if own_user.is_some() {
            for file in role.reads {
                readable_by(file, self.group())?;
            }
        }
        let id = own_user.as_ref().map(User::id);
        let confinement = self.confinement(role, run.path(), id)?;
        let cgroup = match (&self.cgroups, &own_user) {
            (Some(cgroups), Some(_)) => {
                let name = format!("{}-{}", run.name(), run.number());
                let memory = role.machine.memory_bytes() + OVERHEAD;
                let processors = role.machine.vcpus.saturating_add(OWN_PROCESSORS);
                let processes = threads(role.machine);
                // The name by which a sweep finds and removes it if we are killed.
                let parent = run.path().join(format!("qemu-{name}"));
                let mark = parent.join(&name);
                match run_directory::make(&parent).and_then(|()| run_directory::make(&mark)) {
                    // Goes without: it matters only if we are killed.
                    Err(error) if disk::is_full(&error) => {
                        tracing::warn!(%error, "a control group is not recorded");
                    }
                    made => made?,
                }
                Some(cgroups.create(&name, mark, memory, processors, processes)?)
            }
            _ => None,
        };
        let cell = Cell {
            _user: own_user,
            cgroup,
        };
        Ok((confinement, cell))
    }

    fn group(&self) -> u32 {
        *self.users.start()
    }

    fn confinement(
        &self,
        role: Role<'_>,
        over: &Path,
        own_user: Option<u32>,
    ) -> io::Result<Confinement> {
        let mut confinement = Confinement {
            is_supplied: role.has_ram_file,
            ..Confinement::default()
        };
        if self.strength == Strength::Off {
            return Ok(confinement);
        }
        confinement.unprivileged = true;
        confinement.limits = limits(role, own_user.is_some());
        confinement.filter = filter(role.has_ram_file, role.has_kvm).map_err(io::Error::other)?;
        confinement.namespaces = match self.strength {
            Strength::OwnUser => Namespaces::Own,
            Strength::UserNamespace => Namespaces::of_user(geteuid(), getegid()),
            _ => Namespaces::Ours,
        };
        confinement.user = own_user.map(|id| (Uid::from_raw(id), Gid::from_raw(self.group())));
        let files = self.system.iter().map(PathBuf::as_path);
        let files: Vec<&Path> = files.chain(role.reads.iter().copied()).collect();
        if self.strength.has_namespaces() {
            let kvm = role.has_kvm.then_some(own_user.is_some());
            confinement.root = Some(root(over, &files, kvm)?);
        } else if self.strength == Strength::Landlock {
            let kvm = role.has_kvm.then_some(Path::new(KVM));
            let access = FileAccess {
                read: files,
                devices: kvm.into_iter().collect(),
                ..FileAccess::default()
            };
            confinement.landlock = access.ruleset()?;
        }
        Ok(confinement)
    }
}

impl Strength {
    /// From the strongest to the weakest.
    const TRIED: [Self; 4] = [
        Self::OwnUser,
        Self::UserNamespace,
        Self::Landlock,
        Self::Filters,
    ];

    fn has_namespaces(self) -> bool {
        matches!(self, Self::OwnUser | Self::UserNamespace)
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnUser => "no user id of its own",
            Self::UserNamespace => "no user namespace",
            Self::Landlock => "no Landlock",
            Self::Filters => "no filters",
            Self::Off => "no jail",
        })
    }
}

/// Returns whether any user may execute `program`; checks the directories that the jail takes over
/// unchanged.
fn is_for_all(program: &Path) -> bool {
    let Ok(program) = program.canonicalize() else {
        return false;
    };
    let allows = |path: &Path, bits| fs::metadata(path).is_ok_and(|it| it.mode() & bits == bits);
    let brought = system_files::beside(&program);
    let is_brought = |path: &&Path| brought.iter().any(|it| path.starts_with(it));
    let mut parents = program.ancestors().skip(1).take_while(is_brought);
    allows(&program, 0o005) && parents.all(|parent| allows(parent, 0o001))
}

/// Returns the limit of a process's threads.
fn threads(machine: Machine) -> u32 {
    let of_disks = machine.disk_mib.map_or(0, |_| DISK_THREADS);
    u32::from(machine.vcpus) + THREADS + of_disks
}

fn limits(role: Role<'_>, has_own_user: bool) -> Vec<(Resource, u64)> {
    let memory = role.machine.memory_bytes();
    let file = if role.writes { memory + EXTRA_FILE } else { 0 };
    let file = file.max(role.machine.disk_bytes());
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Fsize, file),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::As, memory + EXTRA_ADDRESSES),
    ];
    // The limit counts all processes of the user.
    if has_own_user {
        limits.push((Resource::Nproc, threads(role.machine).into()));
    }
    limits
}

/// Builds a root directory with `files`, under their paths on the host. `kvm` is set if it has
/// /dev/kvm, and says whether that device is created anew.
fn root(over: &Path, files: &[&Path], kvm: Option<bool>) -> io::Result<Root> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let inside = |path: &Path| {
        let below = path.strip_prefix("/").unwrap_or(path);
        text(&over.join(below))
    };
    let mut made = BTreeSet::new();
    let mut steps = Vec::new();
    let mut above = |path: &Path, steps: &mut Vec<Step>| -> io::Result<()> {
        let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if made.insert(parent.to_owned()) {
                steps.push(Step::Directory {
                    at: inside(parent)?,
                });
            }
        }
        Ok(())
    };
    let mut bound: Vec<&Path> = Vec::new();
    for path in files {
        // Included in the bind mount of its directory.
        if bound.iter().any(|directory| path.starts_with(directory)) {
            continue;
        }
        let at = inside(path)?;
        above(path, &mut steps)?;
        let facts = path.symlink_metadata()?;
        if facts.is_symlink() {
            let target = text(&fs::read_link(path)?)?;
            steps.push(Step::Link { at, target });
            continue;
        }
        steps.push(if facts.is_dir() {
            bound.push(path);
            Step::Directory { at: at.clone() }
        } else {
            Step::File { at: at.clone() }
        });
        let from = text(path)?;
        steps.push(Step::Bind { from, at });
    }
    if let Some(is_made) = kvm {
        let path = Path::new(KVM);
        let at = inside(path)?;
        above(path, &mut steps)?;
        if is_made {
            let device = fs::metadata(path)?.rdev();
            steps.push(Step::Device { at, device });
        } else {
            steps.push(Step::File { at: at.clone() });
            let from = text(path)?;
            steps.push(Step::BindDevice { from, at });
        }
    }
    Ok(Root {
        over: text(over)?,
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_jail_fails_without_namespaces() {
        let program = Path::new("/usr/bin/true");
        for strength in [Strength::Landlock, Strength::Filters] {
            let jail = Jail::at_most(strength, program, 5..=6).unwrap();
            let error = jail.or_error(program).unwrap_err().to_string();
            assert!(error.contains("`jail`"), "{error}");
        }
        Jail::off().or_error(program).unwrap_err();
    }

    #[test]
    fn enforced_and_missing_parts_make_up_the_strongest_jail() {
        let jail = Jail::new(Strength::OwnUser, 5..=6);
        assert!(!jail.missing().contains(&"a user id of its own"));
        for strength in [
            Strength::UserNamespace,
            Strength::Landlock,
            Strength::Filters,
        ] {
            let jail = Jail::new(strength, 5..=6);
            assert!(jail.missing().contains(&"a user id of its own"));
            assert!(jail.in_force().contains(&"no capabilities"));
        }
        assert!(!Jail::off().in_force().contains(&"no capabilities"));
    }

    #[test]
    fn a_program_of_one_user_alone_is_not_started_as_another() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("qemu");
        fs::write(&program, "").unwrap();
        let mut found = Vec::new();
        // The jail does not contain the directory.
        for (directory, file) in [(0o755, 0o755), (0o700, 0o755), (0o755, 0o700)] {
            for (path, mode) in [(root.path(), directory), (&program, file)] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            found.push(is_for_all(&program));
        }
        assert_eq!(found, [true, true, false]);
        assert!(is_for_all(Path::new("/usr/bin/true")));
    }

    #[test]
    fn a_root_has_each_file_by_its_name_and_each_directory_once() {
        let over = Path::new("/over");
        let files = ["/usr", "/usr/bin/env", "/etc/passwd", "/etc/group"].map(Path::new);
        let steps = root(over, &files, None).unwrap().steps;
        let made = |name: &str| {
            let name = CString::new(name).unwrap();
            let made = |step: &&Step| matches!(step, Step::Directory { at } if *at == name);
            steps.iter().filter(made).count()
        };
        assert_eq!(
            (made("/over/etc"), made("/over/usr"), made("/over")),
            (1, 1, 0)
        );
    }
}
