//! The content of a guest's root file system.
//!
//! The contract with the guest agent: it is `/init`; it loads `/lib/modules/*.ko` in the order of
//! their names; busybox's applets have the paths of Debian's programs; `/proc`, `/sys`, `/dev`,
//! `/run` and `/tmp` exist as mount points.

use std::path::Path;

use super::archive::Tree;
use super::elf;
use super::modules::Module;
use crate::error::TemplateError;
use crate::file;

/// Size limit of the agent and of busybox, in bytes. Both have a few megabytes, which every guest
/// has in its memory.
const MAX_PROGRAM: u64 = 64 << 20;

/// Limit of the applets that busybox may list; Debian's has about 270.
const MAX_APPLETS: usize = 2000;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
/// Like Debian's; the agent adds the guest's own name with each identity.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     ff02::1\tip6-allnodes\n\
                     ff02::2\tip6-allrouters\n";
/// Explicit, because the C library's default depends on its version.
const NSSWITCH: &str = "passwd:\tfiles\n\
                        group:\tfiles\n\
                        shadow:\tfiles\n\
                        hosts:\tfiles dns\n\
                        networks:\tfiles\n\
                        protocols:\tfiles\n\
                        services:\tfiles\n";
/// For programs that require the file; without a network there is no name server.
const RESOLV_CONF: &str = "# nameserver ADDRESS\n";
const HOSTNAME: &str = "ironclaw\n";
const PROFILE: &str = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";

/// Directories that nothing else creates, with their modes.
const DIRECTORIES: [(&str, u32); 17] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/bin", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/local/sbin", 0o755),
    ("usr/sbin", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Reads a program that runs in the guest, where there is no dynamic linker.
pub(crate) fn read_program(path: &Path) -> Result<Vec<u8>, TemplateError> {
    let bytes = file::read(path, MAX_PROGRAM)?;
    match elf::not_static(&bytes) {
        None => Ok(bytes),
        Some(reason) => Err(TemplateError::NotStatic {
            path: path.to_owned(),
            reason,
        }),
    }
}

/// Parses the output of `busybox --list-full` into the paths that the guest gets: all but those
/// that the agent replaces.
pub(super) fn applets(list: &str) -> Result<Vec<&str>, TemplateError> {
    let bad = |applet: &str| TemplateError::Applet {
        applet: applet.chars().take(80).collect(),
    };
    let mut applets = Vec::new();
    for path in list.lines() {
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !path.split('/').all(plain) || applets.len() == MAX_APPLETS {
            return Err(bad(path));
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        if !matches!(name, "init" | "linuxrc" | "busybox") {
            applets.push(path);
        }
    }
    if applets.is_empty() {
        Err(bad(""))
    } else {
        Ok(applets)
    }
}

/// Builds the file tree of a guest.
pub(super) fn tree(
    agent: Vec<u8>,
    busybox: Vec<u8>,
    applets: &[&str],
    modules: Vec<Module>,
) -> Tree {
    let mut tree = minimal(busybox, applets);
    // The kernel opens the console for PID 1 before anything is mounted on /dev.
    tree.char_device("dev/console", 0o600, 5, 1);
    tree.char_device("dev/null", 0o666, 1, 3);
    let digits = if modules.len() > 100 { 3 } else { 2 };
    for (number, module) in modules.into_iter().enumerate() {
        let path = format!("lib/modules/{number:0digits$}-{}.ko", module.name);
        tree.file(&path, 0o644, module.bytes);
    }
    tree.file("init", 0o755, agent);
    tree
}

/// Builds the file tree of a small system with busybox, which is no guest's on its own.
pub(super) fn minimal(busybox: Vec<u8>, applets: &[&str]) -> Tree {
    let mut tree = Tree::default();
    for (path, mode) in DIRECTORIES {
        tree.directory(path, mode);
    }
    tree.symlink("var/run", "/run");
    tree.file("etc/passwd", 0o644, PASSWD);
    tree.file("etc/group", 0o644, GROUP);
    tree.file("etc/hosts", 0o644, HOSTS);
    tree.file("etc/hostname", 0o644, HOSTNAME);
    tree.file("etc/nsswitch.conf", 0o644, NSSWITCH);
    tree.file("etc/resolv.conf", 0o644, RESOLV_CONF);
    tree.symlink("etc/mtab", "/proc/self/mounts");
    tree.file("etc/profile", 0o644, PROFILE);
    tree.file("bin/busybox", 0o755, busybox);
    for applet in applets {
        if !tree.contains(applet) {
            tree.symlink(applet, "/bin/busybox");
        }
    }
    tree
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses the output of a program in place of busybox: no path may leave the archive.
pub fn fuzz(list: &str) {
    for path in applets(list).unwrap_or_default() {
        let mut parts = Path::new(path).components();
        assert!(
            parts.all(|part| matches!(part, std::path::Component::Normal(_))),
            "{path:?}"
        );
    }
}

#[cfg(test)]
mod tests;
