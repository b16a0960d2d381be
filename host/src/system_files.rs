//! System files that a program and its loader read, in any confinement.

use std::path::{Path, PathBuf};

const SYSTEM: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/alternatives",
];

/// Returns those that exist.
pub fn present() -> Vec<PathBuf> {
    let there = |path: &PathBuf| path.symlink_metadata().is_ok();
    SYSTEM.iter().map(PathBuf::from).filter(there).collect()
}

/// Directories with the libraries and firmware of a program that is not installed by the system, as
/// QEMU has them: siblings of its `bin`, or of its build directory.
const INSTALLED: [&str; 10] = [
    "lib",
    "lib64",
    "lib32",
    "libexec",
    "share/qemu",
    "share/qemu-kvm",
    "share/seabios",
    "share/seavgabios",
    "pc-bios",
    "qemu-bundle",
];

/// Returns `program` and the files beside it that it needs, if it is not a program of the system.
/// Never a whole directory that the user owns: it may be their home.
pub fn beside(program: &Path) -> Vec<PathBuf> {
    let Ok(program) = program.canonicalize() else {
        return Vec::new();
    };
    if program.starts_with("/usr") {
        return Vec::new();
    }
    // Packages in these stores depend on others there, by absolute path.
    for store in ["/nix/store", "/gnu/store"] {
        if program.starts_with(store) {
            return vec![store.into()];
        }
    }
    let Some(directory) = program.parent() else {
        return Vec::new();
    };
    let is_bin = directory.file_name().is_some_and(|name| name == "bin");
    let prefix = directory.parent().filter(|_| is_bin).unwrap_or(directory);
    let mut all: Vec<PathBuf> = INSTALLED
        .iter()
        .map(|name| prefix.join(name))
        .filter(|path| path.symlink_metadata().is_ok())
        .collect();
    all.push(program);
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_brings_what_is_beside_it_and_not_all_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let at = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            beside(&path)
        };
        let paths = |paths: &[&str]| -> Vec<_> { paths.iter().map(|it| root.join(it)).collect() };
        for file in [
            "home/.ssh/id",
            "home/share/private",
            "home/lib/libslirp.so",
            "build/pc-bios/bios.bin",
        ] {
            at(file);
        }
        assert_eq!(at("home/bin/qemu"), paths(&["home/lib", "home/bin/qemu"]));
        assert_eq!(at("home/qemu"), paths(&["home/lib", "home/qemu"]));
        assert_eq!(at("build/qemu"), paths(&["build/pc-bios", "build/qemu"]));
        assert!(beside(Path::new("/usr/bin/true")).is_empty());
    }
}
