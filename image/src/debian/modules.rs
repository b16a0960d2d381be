//! Selects the kernel modules that a guest needs, in load order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::compression::Compression;
use super::elf;
use super::module_error::ModuleError;
use crate::error::TemplateError;
use crate::file;

/// The modules that every guest loads, the guest channel first; their dependencies are loaded
/// before them. Debian's cloud kernel has ext4 built in and the others as modules.
const WANTED: [&str; 9] = [
    "virtio_mmio",
    "virtio_console",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "virtio_net",
    "virtio_blk",
    "overlay",
    "squashfs",
    "ext4",
];

/// Modules that are loaded if the kernel has them: the driver that reseeds a clone's random generator
/// when the VMM changes its generation id, which Debian 12's cloud kernel does not have; and the file
/// system of root disks' images.
const WELCOME: [&str; 2] = ["vmgenid", "erofs"];

/// Size limit of a module in bytes, before and after decompression.
const MAX_MODULE: usize = 32 << 20;

/// Size limit of `modules.builtin`, in bytes.
const MAX_LIST: u64 = 4 << 20;

/// A module for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name, with `_`, never `-`.
    pub(super) name: String,
    /// The uncompressed file, with the distribution's signature if there is one.
    pub(super) bytes: Vec<u8>,
}

/// Selects the modules that the guest needs in `directory` (a `/lib/modules/<release>`), in load
/// order.
pub(super) fn collect(directory: &Path, release: &str) -> Result<Vec<Module>, TemplateError> {
    let wrong = |source| TemplateError::Modules {
        path: directory.to_owned(),
        source,
    };
    let built_in = built_in(directory)?;
    let files = files(directory)?;
    let mut read = BTreeMap::new();

    let welcome = WELCOME.into_iter().filter(|name| files.contains_key(*name));
    let wanted: Vec<&str> = WANTED.into_iter().chain(welcome).collect();
    let order = load_order(&wanted, |name, needed_by| {
        if built_in.contains(name) {
            return Ok(Found::BuiltIn);
        }
        let Some(path) = files.get(name) else {
            let needed_by = needed_by.map(str::to_owned);
            return Err(wrong(ModuleError::Missing {
                name: name.to_owned(),
                needed_by,
            }));
        };
        let bytes = read_module(path)?;
        let needs = dependencies(name, &bytes, release).map_err(wrong)?;
        read.insert(name.to_owned(), bytes);
        Ok(Found::Module { needs })
    });
    let order = order.map_err(|error| match error {
        OrderError::Cycle(names) => wrong(ModuleError::Cycle { names }),
        OrderError::Lookup(error) => error,
    })?;
    let modules = order
        .into_iter()
        .filter_map(|name| read.remove_entry(&name));
    Ok(modules
        .map(|(name, bytes)| Module { name, bytes })
        .collect())
}

/// Normalizes a name: modules are named with `-` in some places and with `_` in others.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn built_in(directory: &Path) -> Result<BTreeSet<String>, TemplateError> {
    let list = file::read(&directory.join("modules.builtin"), MAX_LIST)?;
    let list = String::from_utf8_lossy(&list);
    let names = list
        .lines()
        .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"));
    Ok(names.map(canonical).collect())
}

fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, TemplateError> {
    let mut files = BTreeMap::new();
    // Sorted, so that of two modules with one name it is always the same that counts.
    for entry in WalkDir::new(directory.join("kernel")).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(directory).to_owned();
            TemplateError::io("list", &path)(error.into())
        })?;
        let name = entry.file_name().to_string_lossy();
        if let Some((name, "" | ".xz" | ".zst" | ".gz")) = name.split_once(".ko") {
            files
                .entry(canonical(name))
                .or_insert_with(|| entry.path().to_owned());
        }
    }
    Ok(files)
}

fn read_module(path: &Path) -> Result<Vec<u8>, TemplateError> {
    let bytes = file::read(path, MAX_MODULE as u64)?;
    match Compression::of(&bytes) {
        None => Ok(bytes),
        Some(compression) => compression
            .decompress(&bytes, MAX_MODULE)
            .map_err(|source| TemplateError::Decompress {
                path: path.to_owned(),
                source,
            }),
    }
}

fn dependencies(name: &str, bytes: &[u8], release: &str) -> Result<Vec<String>, ModuleError> {
    let not_a_module = || ModuleError::NotAModule {
        name: name.to_owned(),
    };
    let modinfo = elf::modinfo(bytes).ok_or_else(not_a_module)?;
    let value = |wanted: &str| {
        modinfo
            .iter()
            .find(|(key, _)| key == wanted)
            .map(|(_, value)| value.as_str())
    };
    let version_magic = value("vermagic").ok_or_else(not_a_module)?;
    let found = version_magic.split(' ').next().unwrap_or_default();
    if found != release {
        return Err(ModuleError::WrongRelease {
            name: name.to_owned(),
            found: found.to_owned(),
            expected: release.to_owned(),
        });
    }
    let depends = value("depends").unwrap_or_default();
    Ok(depends
        .split(',')
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect())
}

/// The place of a module.
enum Found {
    BuiltIn,
    Module { needs: Vec<String> },
}

#[derive(Debug, PartialEq, Eq)]
enum OrderError<E> {
    Cycle(Vec<String>),
    Lookup(E),
}

/// Returns every module that is wanted or depended on, once and after its dependencies; leaves out
/// built-in ones. Calls `lookup` once for each name, with the name that needs it.
fn load_order<E>(
    wanted: &[&str],
    mut lookup: impl FnMut(&str, Option<&str>) -> Result<Found, E>,
) -> Result<Vec<String>, OrderError<E>> {
    struct Open {
        name: String,
        built_in: bool,
        needs: std::vec::IntoIter<String>,
    }
    let mut order = Vec::new();
    let mut closed = BTreeSet::new();
    for root in wanted {
        let mut path: Vec<Open> = Vec::new();
        let mut next = Some((*root).to_owned());
        loop {
            if let Some(name) = next.take() {
                if let Some(at) = path.iter().position(|open| open.name == name) {
                    let names = path[at..].iter().map(|open| open.name.clone());
                    return Err(OrderError::Cycle(names.chain([name]).collect()));
                }
                if !closed.contains(&name) {
                    let needed_by = path.last().map(|open| open.name.as_str());
                    let found = lookup(&name, needed_by).map_err(OrderError::Lookup)?;
                    let (built_in, needs) = match found {
                        Found::BuiltIn => (true, Vec::new()),
                        Found::Module { needs } => (false, needs),
                    };
                    path.push(Open {
                        name,
                        built_in,
                        needs: needs.into_iter(),
                    });
                }
            }
            let Some(top) = path.last_mut() else { break };
            next = top.needs.next();
            if next.is_none()
                && let Some(done) = path.pop()
            {
                if !done.built_in {
                    order.push(done.name.clone());
                }
                closed.insert(done.name);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests;
