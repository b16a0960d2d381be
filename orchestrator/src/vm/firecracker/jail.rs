//! Runs VMMs in the jailer: Firecracker's own program that confines a VMM to a chroot, under a user
//! id of its own, with resource limits (Firecracker's docs/jailer.md).
//!
//! Beyond what the jailer does, each process gets an empty network namespace of its own, unless its
//! tap device is in another, a Firecracker that was copied for an earlier VM (see `cells`), and all processes of one owner share a PID namespace that ends with
//! the owner (see `pid_namespace`). The jailer's `--new-pid-ns` would make the VMM an orphan that
//! we could neither wait for nor be sure to kill.

use std::fs::DirBuilder;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use super::cells::Cell;
use super::pid_namespace::{PidNamespace, PidNamespaces};
use super::trampoline::TRAMPOLINE;
use crate::sys::program::Program;
use crate::vm::host_limits;
use crate::vm::vmm::jail::cgroup::Cgroups;
use crate::vm::vmm::jail::user::{Turn, User, user};
use crate::vm::vmm::program::find_program;
use crate::vm::vmm::{Machine, VmmError};

pub(super) const PROGRAM: &str = "jailer";
/// Bytes that a VMM may write to a file beyond the size of the guest's memory.
const MAX_EXTRA_FILE_BYTES: u64 = 64 << 20;
/// Limit of a VMM's open files: the jailer's own default.
const MAX_FILES: u64 = 2048;

/// A jailer, and the resources for jails.
#[derive(Debug)]
pub struct Jailer {
    program: PathBuf,
    users: RangeInclusive<u32>,
    turn: Turn,
    cgroups: Option<Cgroups>,
    pid_namespaces: PidNamespaces,
}

impl Jailer {
    /// Finds the jailer at `configured`, or else on PATH. Each VM gets a user id of `users`; the
    /// first of them serves as the group of all, by which they may read snapshots.
    ///
    /// # Errors
    /// [`VmmError::NotInstalled`], or [`VmmError::Unusable`] if no namespace can be created, as
    /// without root.
    pub fn find(configured: Option<&Path>, users: RangeInclusive<u32>) -> Result<Self, VmmError> {
        let program = find_jailer(configured)?;
        let pid_namespaces = PidNamespaces::start().map_err(host_limits::of_start);
        let pid_namespaces = pid_namespaces.map_err(|error| VmmError::Unusable {
            program: PROGRAM,
            path: program.clone(),
            reason: format!(
                "no PID namespace can be made for jailed VMs ({error}): it takes root with the \
                 capability CAP_SYS_ADMIN, or set `jail=off` to do without a jail"
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
            turn: Turn::default(),
            cgroups,
            pid_namespaces,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.program
    }

    /// Returns everything that distinguishes what it starts from what another one does.
    pub(super) fn settings(&self) -> impl std::fmt::Debug {
        (&self.program, &self.users, &self.cgroups)
    }

    pub(super) fn group(&self) -> u32 {
        *self.users.start()
    }

    /// Returns the PID namespace for one more VM, which has to keep it while its process lives.
    pub(super) fn pid_namespace(&self) -> Arc<PidNamespace> {
        self.pid_namespaces.current()
    }

    pub(super) fn cgroups(&self) -> Option<&Cgroups> {
        self.cgroups.as_ref()
    }

    /// Claims a user id that no other VM of this host has.
    pub(super) fn user(&self, run_path: &Path) -> io::Result<User> {
        user(&self.users, &self.turn, run_path)
    }

    /// Returns the program that runs Firecracker with `arguments` in the jail at [`root`], and in the
    /// network namespace at `network`, or else in the empty one of the cell.
    pub(super) fn program(
        &self,
        Jail { id, user, cell, .. }: &Jail,
        base: &Path,
        machine: Machine,
        network: Option<&Path>,
        arguments: &[&str],
    ) -> Program {
        let mut program = Program::new(&self.program);
        program.current_dir(Path::new("/"));
        program.args(["--id", id]);
        program.arg("--exec-file").arg(cell.trampoline());
        program.args(["--uid", &user.id().to_string()]);
        program.args(["--gid", &self.group().to_string()]);
        program.arg("--chroot-base-dir").arg(base);
        let largest = machine.memory_bytes() + MAX_EXTRA_FILE_BYTES;
        let largest = largest.max(machine.disk_bytes());
        program.args(["--resource-limit", &format!("fsize={largest}")]);
        // Not above this process's hard limit: raising that may need a capability.
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let files = most.min(MAX_FILES);
        program.args(["--resource-limit", &format!("no-file={files}")]);
        match network {
            Some(namespace) => {
                program.arg("--netns").arg(namespace);
            }
            None => {
                program.join_network(cell.network());
            }
        }
        program.arg("--").args(arguments);
        program
    }
}

/// Finds the jailer at `configured`, or else on PATH.
///
/// # Errors
/// [`VmmError::NotInstalled`].
pub fn find_jailer(configured: Option<&Path>) -> Result<PathBuf, VmmError> {
    find_program(
        PROGRAM,
        configured,
        "as root, Firecracker runs in a jail only: put the jailer, which comes with each release \
         of it, on PATH, set `jailer` to it, or `jail=off` to do without",
    )
}

/// The resources of a jailed VM on the host, beside its directory.
#[derive(Debug)]
pub(super) struct Jail {
    pub(super) id: String,
    pub(super) user: User,
    pub(super) cell: Cell,
}

/// Creates the jail of the VM `id` as the jailer would; returns the directory to remove later, and
/// the one that the VM sees as its root.
pub(super) fn root(base: &Path, id: &str) -> io::Result<(PathBuf, PathBuf)> {
    let directory = base.join(TRAMPOLINE).join(id);
    let root = directory.join("root");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)?;
    Ok((directory, root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::vmm::jail::user::DEFAULT_USERS;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    #[test]
    fn without_the_right_to_make_namespaces_it_is_said_how_to_do_without() {
        // A thread can give up its own capabilities alone.
        let found = std::thread::spawn(|| {
            let mut rights = capabilities(None).unwrap();
            rights.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, rights).unwrap();
            Jailer::find(Some(Path::new("/bin/true")), DEFAULT_USERS)
        });
        let error = found.join().unwrap().unwrap_err();
        assert!(matches!(error, VmmError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains("`jail=off`"), "{error}");
    }
}
