//! The files with a guest's identity.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ironclaw_protocol::message::Identity;
use thiserror::Error;

/// The error of writing an identity file.
#[derive(Debug, Error)]
#[error("{attempt} {}", path.display())]
pub(crate) struct IdentityError {
    attempt: &'static str,
    path: PathBuf,
    pub(crate) source: io::Error,
}

/// The directory of the files that are mounted over those of a root on a disk, below the root: a disk
/// that is full must not keep a guest from its identity.
pub(crate) const MOUNTED: &str = "run/ironclaw/etc";
/// The names of these files.
pub(crate) const FILES: [&str; 3] = ["machine-id", "hostname", "hosts"];

/// Writes the machine id, the host name's files and the boot id below `root`; returns the path of
/// the last, which is to be mounted over the kernel's own.
///
/// A spawn waits for this: each system call counts.
pub(crate) fn write(root: &Path, identity: &Identity) -> Result<PathBuf, IdentityError> {
    let mounted = root.join(MOUNTED);
    let (etc, put): (_, fn(&_, _, &_) -> _) = if mounted.is_dir() {
        (mounted, rewrite)
    } else {
        (root.join("etc"), replace)
    };
    put(
        &etc.join("machine-id"),
        0o444,
        &format!("{}\n", hex(&identity.machine_id)),
    )?;
    put(
        &etc.join("hostname"),
        0o644,
        &format!("{}\n", identity.hostname),
    )?;
    let hosts = etc.join("hosts");
    let before = read(&hosts);
    let before = String::from_utf8_lossy(&before);
    put(&hosts, 0o644, &hosts_with(&before, &identity.hostname))?;
    let boot_id = root.join("run/ironclaw/boot_id");
    overwrite(&boot_id, &format!("{}\n", dashed(&identity.boot_id)))?;
    Ok(boot_id)
}

/// The address of the guest's own name, as in Debian: not that of `localhost`, which is another
/// name.
const OWN_ADDRESS: &str = "127.0.1.1";

/// A size that a table of names seldom exceeds.
const TYPICAL_TABLE: usize = 4096;

/// The entries of every system, as in Debian.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n\
                         ::1\tlocalhost ip6-localhost ip6-loopback\n\
                         ff02::1\tip6-allnodes\n\
                         ff02::2\tip6-allrouters\n";

/// Returns the table of names with `hostname` in place of the guest's earlier name; keeps what the
/// template or a command added.
fn hosts_with(before: &str, hostname: &str) -> String {
    let fields = |line: &str| -> Vec<String> {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let has_localhost = before
        .lines()
        .any(|line| fields(line).iter().skip(1).any(|name| name == "localhost"));
    let mut hosts = if has_localhost {
        String::new()
    } else {
        LOCALHOST.to_owned()
    };
    let others = before
        .lines()
        .filter(|line| fields(line).first().is_none_or(|at| at != OWN_ADDRESS));
    for line in others {
        hosts.push_str(line);
        hosts.push('\n');
    }
    hosts + OWN_ADDRESS + "\t" + hostname + "\n"
}

/// Reads a file, if possible.
fn read(path: &Path) -> Vec<u8> {
    let mut content = Vec::with_capacity(TYPICAL_TABLE);
    // Avoids `fs::read`, which asks for the size first.
    let file = fs::File::open(path);
    match file.and_then(|mut file| file.read_to_end(&mut content)) {
        Ok(_) => content,
        Err(_) => Vec::new(),
    }
}

/// Opens a file for writing; creates its directory, which is missing the first time only.
fn open(options: &fs::OpenOptions, path: &Path) -> Result<fs::File, IdentityError> {
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path);
            fs::create_dir_all(directory).map_err(failed("create the directory", directory))?;
            options.open(path)
        }
        opened => opened,
    }
    .map_err(failed("write", path))
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError {
        attempt,
        path,
        source,
    }
}

/// Replaces the content of `path` atomically.
fn replace(path: &Path, mode: u32, content: &str) -> Result<(), IdentityError> {
    let fresh = path.with_extension("ironclaw-new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = open(&options, &fresh)?;
    file.write_all(content.as_bytes())
        .map_err(failed("write", &fresh))?;
    fs::rename(&fresh, path).map_err(failed("replace", path))
}

/// Rewrites the file at `path` in place, since it is mounted elsewhere, too.
fn rewrite(path: &Path, mode: u32, content: &str) -> Result<(), IdentityError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = open(&options, path)?;
    file.write_all(content.as_bytes())
        .map_err(failed("write", path))
}

/// Overwrites the file at `path` with content of the same length, in place: a bind mount of the
/// file is of its inode, not its name.
fn overwrite(path: &Path, content: &str) -> Result<(), IdentityError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o444);
    open(&options, path)?
        .write_all_at(content.as_bytes(), 0)
        .map_err(failed("write", path))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Formats a UUID, as in /proc/sys/kernel/random/boot_id.
fn dashed(bytes: &[u8; 16]) -> String {
    let parts = [
        &bytes[..4],
        &bytes[4..6],
        &bytes[6..8],
        &bytes[8..10],
        &bytes[10..],
    ];
    parts.map(hex).join("-")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity {
            machine_id: [byte; 16],
            boot_id: [0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, byte],
            hostname: format!("task-{byte}"),
        }
    }

    #[test]
    fn each_restore_rewrites_the_files_and_keeps_the_inode_that_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let boot_id = write(root.path(), &identity(0xAB)).unwrap();
        let inode = fs::metadata(&boot_id).unwrap().ino();
        write(root.path(), &identity(0xCD)).unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("etc/machine-id"), format!("{}\n", "cd".repeat(16)));
        assert_eq!(read("etc/hostname"), "task-205\n");
        assert_eq!(
            read("run/ironclaw/boot_id"),
            "10010203-0405-0607-0809-0a0b0c0d0ecd\n"
        );
        assert_eq!(fs::metadata(&boot_id).unwrap().ino(), inode);
        let names: Vec<_> = fs::read_dir(root.path().join("etc"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 3, "no temporary file is left: {names:?}");
    }

    #[test]
    fn files_that_are_mounted_over_those_of_a_disk_are_rewritten_in_place() {
        let root = tempfile::tempdir().unwrap();
        let mounted = root.path().join(MOUNTED);
        fs::create_dir_all(&mounted).unwrap();
        fs::write(mounted.join("hosts"), "10.0.0.1\tdb\n").unwrap();
        let inode = |name: &str| fs::metadata(mounted.join(name)).unwrap().ino();
        let before = inode("hosts");
        for byte in [1, 2] {
            write(root.path(), &identity(byte)).unwrap();
        }
        let read = |name: &str| fs::read_to_string(mounted.join(name)).unwrap();
        assert_eq!(read("hostname"), "task-2\n");
        assert_eq!(read("machine-id"), format!("{}\n", "02".repeat(16)));
        let hosts = read("hosts");
        assert!(
            hosts.contains("db") && hosts.ends_with("task-2\n"),
            "{hosts}"
        );
        assert_eq!(inode("hosts"), before);
        assert!(!root.path().join("etc").exists(), "nothing is on the disk");
    }

    #[test]
    fn the_table_of_names_has_the_new_name_in_place_of_the_old_one_and_keeps_the_rest() {
        let first = hosts_with("", "task-1");
        assert_eq!(first, format!("{LOCALHOST}127.0.1.1\ttask-1\n"));
        assert_eq!(
            hosts_with(&first, "task-2"),
            format!("{LOCALHOST}127.0.1.1\ttask-2\n")
        );
        let own = "# mine\n127.0.0.1 localhost\n127.0.1.1 old # x\n10.0.0.1 db";
        assert_eq!(
            hosts_with(own, "new"),
            "# mine\n127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tnew\n"
        );
    }

    #[test]
    fn an_error_names_the_attempt_and_the_path() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("etc"), "").unwrap();
        let error = write(root.path(), &identity(1)).unwrap_err();
        assert!(error.to_string().contains("etc"), "{error}");
    }
}
