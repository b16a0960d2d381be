//! Prepares the guest's system before the agent serves.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::finit_module;

use crate::console::say;
use crate::overlay::Overlay;
use crate::program::Surroundings;
use crate::root_disk::RootDiskError;
use crate::scratch::Root;
use crate::{loopback, root_disk, scratch};

/// The directory of the template's modules, named in load order.
const MODULES: &str = "/lib/modules";

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: &'static std::ffi::CStr,
}

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const DATA: MountFlags = PLAIN.union(MountFlags::NOEXEC);

/// Mounts, in this order.
const MOUNTS: [Mount; 4] = [
    Mount {
        kind: "proc",
        at: "/proc",
        flags: DATA,
        options: c"",
    },
    Mount {
        kind: "sysfs",
        at: "/sys",
        flags: DATA,
        options: c"",
    },
    Mount {
        kind: "devtmpfs",
        at: "/dev",
        flags: MountFlags::NOSUID,
        options: c"mode=0755",
    },
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"gid=5,mode=0620,ptmxmode=0666",
    },
];

/// Names in /dev that programs expect and only udev would create.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Resource limits of commands. The kernel's defaults depend on the memory: a guest of 128 MiB had
/// 319 processes for each user, and at most 4096 open files. Distributions allow this many files.
/// The kernel bounds the total of processes in any case (`kernel.threads-max`).
const RESOURCE_LIMITS: [(Resource, &str, Rlimit); 2] = [
    (
        Resource::Nofile,
        "open files",
        Rlimit {
            current: Some(1024),
            maximum: Some(524_288),
        },
    ),
    (
        Resource::Nproc,
        "processes",
        Rlimit {
            current: None,
            maximum: None,
        },
    ),
];

/// Mounts what programs expect, loads the template's modules and brings the loopback device up.
///
/// Reports a step that fails on the console, and continues: a guest without, say, a network module
/// is useful, and one that gives up is not.
///
/// # Errors
/// The guest has a root disk, and can't change to it.
pub(crate) fn prepare() -> Result<Option<Overlay>, RootDiskError> {
    for Mount {
        kind,
        at,
        flags,
        options,
    } in MOUNTS
    {
        if let Err(error) = fs::create_dir_all(at) {
            say(format_args!("create the directory {at}: {error}"));
        }
        match mount(kind, at, kind, flags, Some(options)) {
            // The kernel may have mounted it already.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => say(format_args!("mount {kind} at {at}: {error}")),
        }
    }
    load_modules(Path::new(MODULES));
    let overlay = root_disk::switch()?;
    let root = match overlay {
        Some(_) => Root::Disk,
        None => Root::Memory,
    };
    for (name, target) in DEV_LINKS {
        match symlink(target, name) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => say(format_args!("link {name} to {target}: {error}")),
        }
    }
    scratch::mount_all(root);
    if root == Root::Disk {
        root_disk::mount_identity()?;
    }
    for (resource, name, limit) in RESOURCE_LIMITS {
        if let Err(error) = setrlimit(resource, limit) {
            say(format_args!("set the limit of {name}: {error}"));
        }
    }
    if let Err(error) = loopback::up() {
        say(format_args!("bring the loopback device up: {error}"));
    }
    Ok(overlay)
}

fn load_modules(directory: &Path) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return say(format_args!("list {}: {error}", directory.display())),
    };
    let mut modules: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .collect();
    modules.sort_unstable();
    for path in modules {
        let loaded = File::open(&path)
            .and_then(|file| finit_module(file, c"", 0).map_err(std::io::Error::from));
        match loaded {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => say(format_args!("load {}: {error}", path.display())),
        }
    }
}

/// Returns the environment of commands, independent of what the kernel's command line passed to PID
/// 1.
pub(crate) fn surroundings(overlay: Option<Overlay>) -> Surroundings {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = [
        ("PATH", path),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
    ];
    Surroundings {
        env: env
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .into(),
        cwd: PathBuf::from("/"),
        overlay,
    }
}
