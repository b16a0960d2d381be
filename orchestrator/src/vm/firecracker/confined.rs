//! Confines Firecracker without a jailer, which needs root: by Landlock, and by a seccomp filter on
//! top of Firecracker's own.
//!
//! Firecracker's filters restrict its system calls, but hardly their arguments: they let it open
//! any file of its user for writing, connect to any socket of theirs, like that of a key agent or
//! of their session, and signal any of their processes. So Landlock restricts it to its own
//! directory, into which the files that it reads are linked, and our filter to the sockets that it
//! listens on.
//!
//! It uses no namespaces, whose creation takes the kernel time: a tap device is found as without
//! them, and Landlock and the filter cover the rest.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ironclaw_host::file_access::FileAccess;
use ironclaw_host::refused_calls::{self, condition};
use ironclaw_host::system_files;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::process::{Resource, geteuid};
use seccompiler::{BackendError, BpfProgram, SeccompCmpOp, SeccompRule};

use super::chroot::{Chroot, DISKS, LOG, WRITTEN};
use super::devices::Devices;
use crate::sys::confine::{self, Confinement};
use crate::vm::vmm::Machine;

/// Devices that it opens to run a guest, and for a tap device.
const KVM: &str = "/dev/kvm";
const TUN: &str = "/dev/net/tun";

/// Bytes that a VM which makes a snapshot may write to a file, beyond its memory.
const EXTRA_FILE: u64 = 64 << 20;
/// Bytes of the memory files that its devices create: a few pages each.
pub(super) const OWN_FILES: u64 = 64 << 10;
/// Address space beyond the guest's memory; it uses a tenth of it.
const EXTRA_ADDRESSES: u64 = 1 << 30;
/// Limit of its open files: the jailer's own default.
const MAX_FILES: u64 = 2048;

/// The confinement of Firecracker for an ordinary user.
#[derive(Debug)]
pub struct Confined {
    /// The files to read, if Landlock restricts them, or the reason why it does not.
    files: Result<Vec<PathBuf>, String>,
}

impl Confined {
    /// Finds the possible confinement of `program`, whose VMs have their directories below
    /// `run_path` and read files in `state`.
    #[must_use]
    pub fn find(program: &Path, run_path: &Path, state: &[PathBuf]) -> Self {
        let files = files_of(program, run_path, state);
        Self { files }
    }

    /// Returns why Landlock is not possible, which leaves it access to all files of its user.
    #[must_use]
    pub fn why_no_stronger(&self) -> Option<&str> {
        self.files.as_ref().err().map(String::as_str)
    }

    /// Lists the enforced restrictions.
    #[must_use]
    pub fn in_force(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        if self.restricts_files() {
            all.push("Landlock: it reads and writes in its own directory alone");
            if confine::landlock_version() >= 6 {
                all.push("no signals to others");
            }
        }
        all.extend([
            "no capabilities",
            "filtered system calls (Firecracker's and ours)",
            "limits",
        ]);
        all
    }

    /// Returns whether the files that it reads must be in its directory.
    pub(super) fn restricts_files(&self) -> bool {
        self.files.is_ok()
    }

    /// Builds the confinement of one process in `dir`; `writes` tells whether it writes a snapshot.
    pub(super) fn confinement(
        &self,
        dir: &Chroot,
        machine: Machine,
        writes: bool,
        devices: &Devices,
    ) -> io::Result<Confinement> {
        let landlock = match &self.files {
            Ok(files) => access(files, dir.path(), machine, writes, devices)?,
            Err(_) => None,
        };
        let memory = machine.memory_bytes();
        Ok(Confinement {
            limits: vec![
                (Resource::Core, 0),
                (
                    Resource::Fsize,
                    if writes {
                        memory + EXTRA_FILE
                    } else {
                        OWN_FILES
                    }
                    .max(machine.disk_bytes()),
                ),
                (Resource::Nofile, MAX_FILES),
                (Resource::As, memory + EXTRA_ADDRESSES),
            ],
            unprivileged: true,
            landlock,
            filter: filter().map_err(io::Error::other)?,
            ..Confinement::default()
        })
    }
}

/// Returns the files that `program` has to read, if these suffice for it.
fn files_of(program: &Path, run_path: &Path, state: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    if confine::landlock_version() == 0 {
        return Err("this kernel has no Landlock, or it is switched off".to_owned());
    }
    if !is_executable(program) {
        let shown = program.display();
        return Err(format!(
            "{shown} is a script, and what it starts can't be told"
        ));
    }
    for path in state {
        can_link(path, run_path)?;
    }
    let mut all = system_files::present();
    all.extend(system_files::beside(program));
    Ok(all)
}

/// Returns whether it is a binary, as opposed to a script that starts one.
fn is_executable(program: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"\x7fELF"
}

fn access(
    files: &[PathBuf],
    dir: &Path,
    machine: Machine,
    writes: bool,
    devices: &Devices,
) -> io::Result<Option<OwnedFd>> {
    let (log, written, disks) = (dir.join(LOG), dir.join(WRITTEN), dir.join(DISKS));
    let mut read: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    read.push(dir);
    let mut used = vec![Path::new(KVM), &log];
    if devices.has_network() {
        used.push(Path::new(TUN));
    }
    FileAccess {
        read,
        devices: used,
        sockets: vec![dir],
        written: if writes { vec![&written] } else { Vec::new() },
        changed: machine.disk_mib.iter().map(|_| &*disks).collect(),
    }
    .ruleset()
}

/// Checks that files in `directory` can be linked to below `run_path`; neither need exist yet.
fn can_link(directory: &Path, run_path: &Path) -> Result<(), String> {
    let there = |path: &Path| {
        let mut all = path.ancestors();
        all.find_map(|path| path.canonicalize().ok())
    };
    let (Some(from), Some(to)) = (there(directory), there(run_path)) else {
        return Ok(());
    };
    // Compares mounts: the kernel links nothing between two mounts, even of one file system.
    let mount = |path: &Path| statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID);
    let is_one = |from, to| match (mount(from), mount(to)) {
        (Ok(from), Ok(to)) => from.stx_mnt_id == to.stx_mnt_id,
        _ => false,
    };
    let (shown, run) = (directory.display(), run_path.display());
    if !is_one(&from, &to) {
        return Err(format!("{shown} and {run} are on different file systems"));
    }
    // Files of others can't be linked by everybody (fs.protected_hardlinks, proc_sys_fs(5)).
    let owner = from.metadata().map_or(0, |facts| facts.uid());
    let is_there = from.as_path() == directory || directory.exists();
    if is_there && owner != geteuid().as_raw() {
        return Err(format!("{shown} belongs to another user"));
    }
    Ok(())
}

/// Builds the filter: it creates no sockets but its own, and connects to none.
fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules = refused_calls::rules()?;
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    let of_others = condition(0, SeccompCmpOp::Ne, unix)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![of_others])?]);
    // `sendmsg` would reach a socket without a connection.
    rules.insert(libc::SYS_sendmsg, Vec::new());
    rules.insert(libc::SYS_sendmmsg, Vec::new());
    refused_calls::filter(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_not_confined_to_files_that_nobody_knows() {
        let root = tempfile::tempdir().unwrap();
        let script = root.path().join("firecracker");
        std::fs::write(&script, "#!/bin/sh\nexec /opt/firecracker \"$@\"\n").unwrap();
        let confined = Confined::find(&script, root.path(), &[]);
        let reason = confined.why_no_stronger().unwrap();
        assert!(
            reason.contains("script") || confine::landlock_version() == 0,
            "{reason}"
        );
        assert!(is_executable(Path::new("/bin/true")));
    }

    #[test]
    fn obstacles_to_links_into_a_vm_s_directory_are_found_before_it_exists() {
        let root = tempfile::tempdir().unwrap();
        let (run, snapshots) = (root.path().join("run"), root.path().join("not/yet"));
        can_link(&snapshots, &run).unwrap();
        let reason = can_link(Path::new("/proc/nonexistent"), &run).unwrap_err();
        assert!(reason.contains("different file systems"), "{reason}");
        std::fs::create_dir(root.path().join("not")).unwrap();
        std::fs::create_dir(&snapshots).unwrap();
        can_link(&snapshots, &run).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&snapshots, Some(65_534), None).unwrap();
            let reason = can_link(&snapshots, &run).unwrap_err();
            assert!(reason.contains("another user"), "{reason}");
        }
    }
}
