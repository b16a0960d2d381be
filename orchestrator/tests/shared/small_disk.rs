//! A file system that can be filled.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use ironclaw_host::sys::with_own_descriptors;
use tempfile::TempDir;

/// A mounted file system; unmounted on drop.
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Mounts one; the error is the reason why not: mounting needs root. If root can't either, as
    /// in a container, calls `denied`, which may panic.
    pub(crate) fn mount(mebibytes: u32, denied: impl FnOnce(&str)) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting a small tmpfs needs root".to_owned());
        }
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let output = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &directory);
        if output.status.success() {
            return Ok(Self { directory });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = format!("a small tmpfs can't be mounted: {}", said.trim());
        denied(&reason);
        Err(reason)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Remounts it read-only.
    #[allow(dead_code, reason = "not all tests that share this file do so")]
    pub(crate) fn make_read_only(&self) {
        let output = run("mount", &["-o", "remount,ro"], &self.directory);
        assert!(output.status.success(), "{output:?}");
    }

    /// Uses all the space that is left, below `path`.
    pub(crate) fn fill(path: &Path) {
        // A program that another test starts meanwhile would have the file open, and so keep its space.
        let filled = with_own_descriptors(|| {
            let mut file = File::create(path.join("filler"))?;
            let block = [0; 1 << 16];
            loop {
                if let Err(error) = file.write_all(&block) {
                    return Ok(error);
                }
            }
        });
        let error = filled.unwrap();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// Frees that space.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: files left open by a failed test do not prevent it.
        run("umount", &["--lazy"], &self.directory);
    }
}

fn run(program: &str, arguments: &[&str], directory: &TempDir) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).arg(directory.path());
    command.output().unwrap()
}
