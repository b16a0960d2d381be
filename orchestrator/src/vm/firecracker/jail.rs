//! The jailer: Firecracker's own program that locks a VMM into a directory, under a user that has
//! nothing else, within limits (Firecracker's docs/jailer.md).
//!
//! Beside what the jailer does, each process gets an empty network namespace of its own, unless
//! its tap device is in another, and all
//! of one owner share a PID namespace which ends with the owner (see `guard`). The jailer's
//! `--new-pid-ns` would make the VMM an orphan that we could neither wait for nor be sure to kill.

use std::fs::{self, DirBuilder};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

use super::cgroup::Cgroups;
use super::claim::{self, Claim};
use super::guard::Guard;
use crate::sys;
use crate::vm::host_limits;
use crate::vm::vmm::{Machine, VmmError};

pub(in crate::vm) const PROGRAM: &str = "jailer";
/// Bytes of a file that a VMM may write beyond the size of the guest's memory.
const EXTRA_FILE: u64 = 64 << 20;
/// Most files that a VMM may have open: the jailer's own default.
const MAX_FILES: u64 = 2048;

/// User ids of jailed processes: unassigned on Debian, below those that are given to users for
/// containers (systemd's docs/UIDS-GIDS.md).
pub const DEFAULT_USERS: RangeInclusive<u32> = 70_000..=70_999;

/// How VMMs are jailed.
#[derive(Debug)]
pub struct Jailer {
    program: PathBuf,
    users: RangeInclusive<u32>,
    next: AtomicUsize,
    cgroups: Option<Cgroups>,
    guard: Guard,
}

impl Jailer {
    /// The jailer at `configured`, or else the one on PATH, with a user id of `users` for each
    /// VM. The first of them is the group of all, by which they may read snapshots.
    ///
    /// # Errors
    /// [`VmmError::NotInstalled`], or [`VmmError::Unusable`] if a namespace can't be made, as
    /// without root.
    pub fn find(configured: Option<&Path>, users: RangeInclusive<u32>) -> Result<Self, VmmError> {
        let program = find_jailer(configured)?;
        let guard = Guard::start().map_err(host_limits::of_start);
        let guard = guard.map_err(|error| VmmError::Unusable {
            program: PROGRAM,
            path: program.clone(),
            reason: format!(
                "no PID namespace can be made for jailed VMs ({error}): it takes root with the \
                 capability CAP_SYS_ADMIN, or set IRONCLAW_JAIL=off to do without a jail"
            ),
        })?;
        let cgroups = Cgroups::find();
        if cgroups.is_none() {
            tracing::warn!(
                "jailed VMs are not limited: this host lacks one of the control group \
                 controllers memory, cpu and pids"
            );
        }
        Ok(Self {
            program,
            users,
            next: AtomicUsize::new(0),
            cgroups,
            guard,
        })
    }

    pub(super) fn group(&self) -> u32 {
        *self.users.start()
    }

    pub(super) fn namespace(&self) -> Arc<OwnedFd> {
        self.guard.namespace()
    }

    pub(super) fn cgroups(&self) -> Option<&Cgroups> {
        self.cgroups.as_ref()
    }

    /// A user id that no other VM of this host has.
    pub(super) fn user(&self, run_path: &Path) -> io::Result<User> {
        // A different one each time: the first are likely in use.
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        user(&self.users, turn, run_path)
    }

    /// The command that runs `firecracker` with `arguments` as the VM `id`, in the jail at
    /// [`root`] and the network namespace `network`, or else in one with nothing in it.
    #[expect(clippy::too_many_arguments, reason = "a command line has as many")]
    pub(super) fn command(
        &self,
        firecracker: &Path,
        base: &Path,
        id: &str,
        user: &User,
        machine: Machine,
        network: Option<&Path>,
        arguments: &[&str],
    ) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir("/");
        command.args(["--id", id]);
        command.arg("--exec-file").arg(firecracker);
        command.args(["--uid", &user.id.to_string()]);
        command.args(["--gid", &self.group().to_string()]);
        command.arg("--chroot-base-dir").arg(base);
        let largest = machine.memory_bytes() + EXTRA_FILE;
        command.args(["--resource-limit", &format!("fsize={largest}")]);
        // Not more than this process may have, which it may take a capability to raise.
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let files = most.min(MAX_FILES);
        command.args(["--resource-limit", &format!("no-file={files}")]);
        if let Some(cgroups) = &self.cgroups {
            cgroups.limit(machine, &mut command);
        }
        match network {
            Some(namespace) => {
                command.arg("--netns").arg(namespace);
            }
            None => sys::leave_network(&mut command),
        }
        command.arg("--").args(arguments);
        command
    }
}

/// The jailer at `configured`, or else the one on PATH.
///
/// # Errors
/// [`VmmError::NotInstalled`].
pub fn find_jailer(configured: Option<&Path>) -> Result<PathBuf, VmmError> {
    let path = match configured {
        Some(path) => path.is_file().then(|| path.to_owned()),
        None => which::which(PROGRAM).ok(),
    };
    let program = path.and_then(|path| path.canonicalize().ok());
    program.ok_or_else(|| VmmError::NotInstalled {
        program: PROGRAM,
        path: configured.map(Path::to_owned),
        hint: "as root, Firecracker runs in a jail only: put the jailer, which comes with each \
               release of it, on PATH, set IRONCLAW_JAILER to it, or IRONCLAW_JAIL=off to do \
               without",
    })
}

/// A user id of `users` that no other VM has, the `turn`th of them if that is free.
pub(in crate::vm) fn user(
    users: &RangeInclusive<u32>,
    turn: usize,
    run_path: &Path,
) -> io::Result<User> {
    user_in(users, turn, &claim::directory(run_path)?)
}

fn user_in(users: &RangeInclusive<u32>, turn: usize, claims: &Path) -> io::Result<User> {
    let count = users.clone().count();
    for id in users
        .clone()
        .cycle()
        .skip(turn.checked_rem(count).unwrap_or(0))
        .take(count)
    {
        if let Some(claim) = Claim::take(claims, &id.to_string())? {
            return Ok(User { id, _claim: claim });
        }
    }
    Err(io::Error::new(
        io::ErrorKind::QuotaExceeded,
        format!("all {count} user ids of jailed VMs are in use: widen IRONCLAW_JAIL_USERS"),
    ))
}

/// A user id in use.
#[derive(Debug)]
pub(in crate::vm) struct User {
    id: u32,
    _claim: Claim,
}

impl User {
    pub(in crate::vm) fn id(&self) -> u32 {
        self.id
    }
}

/// Where the jailer makes the jail of the VM `id`: the directory to remove, and the one that the
/// VMM sees as its root.
pub(super) fn root(base: &Path, firecracker: &Path, id: &str) -> io::Result<(PathBuf, PathBuf)> {
    let name = firecracker
        .file_name()
        .ok_or(io::ErrorKind::InvalidFilename)?;
    let directory = base.join(name).join(id);
    let root = directory.join("root");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)?;
    Ok((directory, root))
}

/// Removes the control groups of the jails in the directory of a dead owner.
pub(in crate::vm) fn remove_groups(owner: &Path) -> io::Result<()> {
    if let Some(cgroups) = Cgroups::find() {
        ids(owner)?.iter().for_each(|id| cgroups.remove(id));
    }
    Ok(())
}

/// Names of the jails below `base`, of whatever name the binary had.
fn ids(base: &Path) -> io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for program in fs::read_dir(base)? {
        let program = program?;
        if program.file_type()?.is_dir() {
            for jail in fs::read_dir(program.path())? {
                ids.push(jail?.file_name().to_string_lossy().into_owned());
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    #[test]
    fn each_vm_has_a_user_of_its_own_until_there_is_none() {
        let run = tempfile::tempdir().unwrap();
        let of = |users: RangeInclusive<u32>, turn| user_in(&users, turn, run.path());
        let (one, two) = (of(5..=6, 1).unwrap(), of(5..=6, 3).unwrap());
        assert_eq!((one.id(), two.id()), (6, 5));
        #[expect(clippy::reversed_empty_ranges, reason = "a caller may give one")]
        for users in [5..=6, 6..=5] {
            let error = of(users, 7).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "{error}");
        }
    }

    #[test]
    fn without_the_right_to_make_namespaces_it_is_said_how_to_do_without() {
        // A thread gives up its own rights alone.
        let found = std::thread::spawn(|| {
            let mut rights = capabilities(None).unwrap();
            rights.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, rights).unwrap();
            Jailer::find(Some(Path::new("/bin/true")), DEFAULT_USERS)
        });
        let error = found.join().unwrap().unwrap_err();
        assert!(matches!(error, VmmError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains("IRONCLAW_JAIL=off"), "{error}");
    }
}
