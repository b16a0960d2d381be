//! What shuts Firecracker off where there is no jailer, which takes root: Landlock, and a filter of
//! system calls above Firecracker's own.
//!
//! Its own filters restrict which calls it makes, and hardly their arguments: they let it open any
//! file of its user to write, connect to any socket of theirs, such as that of an agent for keys or of
//! their session, and end any of their processes by a signal. So Landlock leaves it its own directory,
//! into which what it is to read is linked, and our filter the sockets that it listens on.
//!
//! It takes no namespaces, for which kernels make a process wait: a tap device is found as before, and
//! what they would take away, the two others do.

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

use super::chroot::{Chroot, LOG, WRITTEN};
use super::devices::Devices;
use crate::sys::confine::{self, Confinement};
use crate::vm::vmm::Machine;

/// What it opens to run a guest, and for a tap device.
const KVM: &str = "/dev/kvm";
const TUN: &str = "/dev/net/tun";

/// Bytes of a file that a VM which makes a snapshot may write, beyond its memory.
const EXTRA_FILE: u64 = 64 << 20;
/// Bytes of the files in memory that its devices make for themselves: some pages each.
const OWN_FILES: u64 = 1 << 20;
/// Address space beside the guest's memory; it takes a tenth of it.
const EXTRA_ADDRESSES: u64 = 1 << 30;
/// Most files that it may have open: the jailer's own default.
const MAX_FILES: u64 = 2048;

/// How Firecracker is shut off as an ordinary user.
#[derive(Debug)]
pub struct Confined {
    /// Files to read, if Landlock restricts them.
    files: Result<Vec<PathBuf>, String>,
}

impl Confined {
    /// What can be had for `program`, whose VMs have their directories below `run_path` and read what
    /// is in `state`.
    #[must_use]
    pub fn find(program: &Path, run_path: &Path, state: &[PathBuf]) -> Self {
        let files = files_of(program, run_path, state);
        Self { files }
    }

    /// Why it can open files of its user: Landlock can't be had.
    #[must_use]
    pub fn why_no_stronger(&self) -> Option<&str> {
        self.files.as_ref().err().map(String::as_str)
    }

    /// What a process is shut off by.
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

    /// Whether what it reads has to be in its directory.
    pub(super) fn restricts_files(&self) -> bool {
        self.files.is_ok()
    }

    /// That of one process, in `dir`, which `writes` a snapshot or does not.
    pub(super) fn confinement(
        &self,
        dir: &Chroot,
        machine: Machine,
        writes: bool,
        devices: &Devices,
    ) -> io::Result<Confinement> {
        let landlock = match &self.files {
            Ok(files) => access(files, dir.path(), writes, devices)?,
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
                    },
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

/// The files that `program` has to read, if it can do with these.
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

/// Whether it is a program of its own, and not one that starts another.
fn is_executable(program: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"\x7fELF"
}

fn access(
    files: &[PathBuf],
    dir: &Path,
    writes: bool,
    devices: &Devices,
) -> io::Result<Option<OwnedFd>> {
    let (log, written) = (dir.join(LOG), dir.join(WRITTEN));
    let mut read: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    read.push(dir);
    read.extend(devices.root_drive());
    let mut used = vec![Path::new(KVM), &log];
    if devices.has_network() {
        used.push(Path::new(TUN));
    }
    FileAccess {
        read,
        devices: used,
        sockets: vec![dir],
        written: if writes { vec![&written] } else { Vec::new() },
    }
    .ruleset()
}

/// Whether what is in `directory` can be linked into one below `run_path`; neither need be there yet.
fn can_link(directory: &Path, run_path: &Path) -> Result<(), String> {
    let there = |path: &Path| {
        let mut all = path.ancestors();
        all.find_map(|path| path.canonicalize().ok())
    };
    let (Some(from), Some(to)) = (there(directory), there(run_path)) else {
        return Ok(());
    };
    // Of a mount, since the kernel links nothing from one to another, though of one file system.
    let mount = |path: &Path| statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID);
    let is_one = |from, to| match (mount(from), mount(to)) {
        (Ok(from), Ok(to)) => from.stx_mnt_id == to.stx_mnt_id,
        _ => false,
    };
    let (shown, run) = (directory.display(), run_path.display());
    if !is_one(&from, &to) {
        return Err(format!("{shown} and {run} are on different file systems"));
    }
    // What others own can't be linked by everybody (fs.protected_hardlinks, proc_sys_fs(5)).
    let owner = from.metadata().map_or(0, |facts| facts.uid());
    let is_there = from.as_path() == directory || directory.exists();
    if is_there && owner != geteuid().as_raw() {
        return Err(format!("{shown} belongs to another user"));
    }
    Ok(())
}

/// It makes no sockets but its own, and reaches none.
fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules = refused_calls::rules()?;
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    let of_others = condition(0, SeccompCmpOp::Ne, unix)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![of_others])?]);
    // Which would reach one without a connection.
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
    fn what_can_not_be_linked_into_a_vms_directory_is_found_before_there_is_one() {
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
