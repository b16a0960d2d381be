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

mod limits;
mod report;
mod role;
mod root;
mod strength;

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_host::file_access::FileAccess;
use ironclaw_host::system_files;
use rustix::fs::{Gid, Uid};
use rustix::process::{getegid, geteuid};

use limits::{limits, threads};
use role::KVM;
use root::root;

use super::filter::filter;
use crate::disk;
use crate::sys::confine::{self, Confinement, Namespaces};
use crate::vm::vmm::jail::cgroup::{self, Cgroup, Cgroups};
use crate::vm::vmm::jail::readable_by;
use crate::vm::vmm::jail::user::{Turn, User, user};
use crate::vm::vmm::run_directory::{self, RunDirectory};
use crate::vm::vmm::{Machine, VmmError};

pub(super) use role::Role;
pub use strength::Strength;

/// Mount point of a trial's root directory, in a mount namespace of its own: a directory that each
/// host has, and that nothing of a root directory is taken from.
const TRIED_OVER: &str = "/proc";

/// Memory beyond the guest's, for the translation cache, QEMU itself, and the page cache of files
/// that it reads, which counts here too.
const OVERHEAD: u64 = 256 << 20;
/// Processors beyond the guest's: devices and QEMU's own start run on other threads. With only as
/// many as the guest has, a guest that keeps all of its own busy would be throttled in each period.
const OWN_PROCESSORS: u8 = 1;

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
                let memory = memory + cgroup::written_in_memory(run.path(), role.machine)?;
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
}
