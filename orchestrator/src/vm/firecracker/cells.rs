//! What jails keep for the next VM: a copy of Firecracker, and an empty network namespace.
//!
//! ```text
//! <run directory>/<owner>/.cells/start-firecracker    see `trampoline`
//!                                <number>             Firecracker, which only root may write
//! ```
//!
//! The jailer promises that no two Firecrackers share the memory of their program, and copies it into
//! each jail for that. Here each cell has its copy, which is linked into the jail of the one VM that
//! the cell has at a time. The VM may read and execute it, and remove the link; the file stays as it
//! is. All of it goes with the owner's directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::trampoline::{TRAMPOLINE, trampoline};
use crate::sys;
use crate::vm::vmm::blocking::blocking;
use crate::vm::vmm::run_directory;

/// The directory of the copies, below that of their owner.
const CELLS: &str = ".cells";
/// Unused cells that are kept however few are in use: as many VMs may end at once and be replaced.
const MIN_UNUSED: usize = 8;

/// The cells of one owner's jails.
#[derive(Debug)]
pub(super) struct Cells {
    firecracker: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The directory of the copies, once there is one.
    directory: Option<Arc<Path>>,
    unused: Vec<Parts>,
    used: usize,
    made: u64,
}

/// What there is of a cell on the host.
#[derive(Debug, Clone)]
struct Parts {
    program: PathBuf,
    network: Arc<OwnedFd>,
}

/// A cell in use. Drop leaves it to the next VM: the one in it must have ended.
#[derive(Debug)]
pub(super) struct Cell {
    cells: Arc<Cells>,
    parts: Parts,
    is_sound: bool,
}

impl Cells {
    /// The cells of jails that run `firecracker`. There are none yet.
    pub(super) fn new(firecracker: PathBuf) -> Self {
        Self {
            firecracker,
            kept: Mutex::default(),
        }
    }

    /// Takes a cell, in the directory `owner`, which has to be the same one at each call.
    pub(super) async fn take(self: &Arc<Self>, owner: &Path) -> io::Result<Cell> {
        if let Some(parts) = self.unused() {
            return Ok(self.of(parts));
        }
        let (cells, owner) = (Arc::clone(self), owner.to_owned());
        // Takes milliseconds to copy.
        let made = blocking(move || cells.make(&owner)).await;
        let shutting_down = |_| io::Error::other("the runtime shuts down");
        made.map_err(shutting_down)?
    }

    fn of(self: &Arc<Self>, parts: Parts) -> Cell {
        Cell {
            cells: Arc::clone(self),
            parts,
            is_sound: true,
        }
    }

    fn unused(&self) -> Option<Parts> {
        let mut kept = self.kept();
        let parts = kept.unused.pop()?;
        kept.used += 1;
        Some(parts)
    }

    fn make(self: &Arc<Self>, owner: &Path) -> io::Result<Cell> {
        let (directory, number) = {
            let mut kept = self.kept();
            let directory = match &kept.directory {
                Some(directory) => Arc::clone(directory),
                None => {
                    let made = Arc::from(furnish(owner)?);
                    Arc::clone(kept.directory.insert(made))
                }
            };
            kept.made += 1;
            (directory, kept.made)
        };
        let program = directory.join(number.to_string());
        copy(&self.firecracker, &program)?;
        let network = sys::new_network().inspect_err(|_| remove(&program))?;
        self.kept().used += 1;
        Ok(self.of(Parts {
            program,
            network: Arc::new(network),
        }))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cell {
    /// Returns the path of the trampoline.
    pub(super) fn trampoline(&self) -> PathBuf {
        self.program().with_file_name(TRAMPOLINE)
    }

    /// Returns the path of its Firecracker.
    pub(super) fn program(&self) -> &Path {
        &self.parts.program
    }

    /// Returns its network namespace.
    pub(super) fn network(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.parts.network)
    }

    /// Leaves it to nobody, because something is wrong with it.
    pub(super) fn discard(mut self) {
        self.is_sound = false;
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let surplus = {
            let mut kept = self.cells.kept();
            kept.used -= 1;
            if !self.is_sound {
                drop(kept);
                return remove(&self.parts.program);
            }
            kept.unused.push(self.parts.clone());
            let keep = kept.unused.len() - surplus(kept.unused.len(), kept.used);
            kept.unused.split_off(keep)
        };
        for parts in surplus {
            remove(&parts.program);
        }
    }
}

/// Returns how many of the unused cells to give up: as many are kept as are in use, which may all end
/// and be replaced.
fn surplus(unused: usize, used: usize) -> usize {
    unused.saturating_sub(used.max(MIN_UNUSED))
}

/// Creates the directory of the copies, with the trampoline.
fn furnish(owner: &Path) -> io::Result<PathBuf> {
    let trampoline = trampoline().ok_or_else(|| {
        let text = format!("Firecracker does not run on {}", std::env::consts::ARCH);
        io::Error::new(ErrorKind::Unsupported, text)
    })?;
    let directory = owner.join(CELLS);
    match run_directory::make(&directory) {
        // A trampoline could not be written, as to a full disk.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let path = directory.join(TRAMPOLINE);
    let written = create(&path).and_then(|mut file| {
        file.write_all(&trampoline)?;
        // The jailer gives its mode to the copies, which belong to the VMs' users.
        file.set_permissions(fs::Permissions::from_mode(0o555))
    });
    written.inspect_err(|_| remove(&path))?;
    Ok(directory)
}

/// Copies a program to a new file, which nobody may write to, and every user may read and execute.
fn copy(program: &Path, path: &Path) -> io::Result<()> {
    let copied = sys::with_own_descriptors(|| {
        let (mut program, mut file) = (File::open(program)?, create(path)?);
        io::copy(&mut program, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(0o555))
    });
    copied.inspect_err(|_| remove(path))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a copy of Firecracker stays while this process lives");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn as_many_unused_cells_are_kept_as_are_in_use() {
        for (unused, used, expected) in [(0, 0, 0), (8, 0, 0), (9, 0, 1), (30, 20, 10), (9, 9, 0)] {
            assert_eq!(surplus(unused, used), expected, "{unused}, {used}");
        }
    }

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory.join(CELLS)).unwrap().count()
    }

    /// Returns the cells of a program, unless this user can make no namespaces.
    fn cells(directory: &Path) -> Option<Arc<Cells>> {
        let program = directory.join("program");
        fs::write(&program, "program").unwrap();
        sys::new_network().ok()?;
        Some(Arc::new(Cells::new(program)))
    }

    #[tokio::test]
    async fn a_cell_has_one_vm_at_a_time_and_then_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let owner = directory.path();
        let Some(cells) = cells(owner) else { return };
        let (one, two) = (
            cells.take(owner).await.unwrap(),
            cells.take(owner).await.unwrap(),
        );
        assert_ne!(one.program(), two.program());
        let network = |cell: &Cell| rustix::fs::fstat(cell.network()).unwrap().st_ino;
        assert_ne!(network(&one), network(&two));
        for cell in [&one, &two] {
            let facts = fs::metadata(cell.program()).unwrap();
            assert_eq!((facts.mode() & 0o7777, facts.nlink()), (0o555, 1));
            assert_eq!(fs::read(cell.program()).unwrap(), b"program");
        }
        let first = one.program().to_owned();
        drop(one);
        let again = cells.take(owner).await.unwrap();
        assert_eq!(again.program(), first);
        again.discard();
        assert!(!first.exists());
        let third = cells.take(owner).await.unwrap();
        assert!(![&*first, two.program()].contains(&third.program()));
    }

    #[tokio::test]
    async fn cells_that_many_vms_had_are_given_up_when_these_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let owner = directory.path();
        let Some(cells) = cells(owner) else { return };
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(cells.take(owner).await.unwrap());
        }
        // And the trampoline.
        assert_eq!(files(owner), 21);
        all.truncate(10);
        assert_eq!(files(owner), 21);
        drop(all);
        assert_eq!(files(owner), MIN_UNUSED + 1);
    }

    #[tokio::test]
    async fn what_can_not_be_copied_leaves_nothing_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let owner = directory.path();
        let Some(cells) = cells(owner) else { return };
        let program = owner.join("program");
        fs::remove_file(&program).unwrap();
        let error = cells.take(owner).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(files(owner), 1);
        fs::write(&program, "program").unwrap();
        cells.take(owner).await.unwrap();
    }
}
