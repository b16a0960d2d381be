//! What jails keep for the next VM: a copy of Firecracker, an empty network namespace, and control
//! groups.
//!
//! ```text
//! <run directory>/<owner>/.cells/start-firecracker    see `trampoline`
//!                                <owner>-<number>/firecracker    which only root may write; the
//!                                                     control groups have the directory's name
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

use super::binary::PROGRAM;
use super::trampoline::{TRAMPOLINE, trampoline};
use crate::sys;
use crate::vm::vmm::blocking::blocking_in_vmm;
use crate::vm::vmm::jail::cgroup::{Cgroup, Cgroups};
use crate::vm::vmm::run_directory::{self, RunDirectory};
use crate::vm::vmm::{Machine, VmmError};

/// The directory of the copies, below that of their owner.
const CELLS: &str = ".cells";
/// Unused cells that are kept however few are in use: as many VMs may end at once and be replaced.
const MIN_UNUSED: usize = 8;

/// The cells of one owner's jails.
#[derive(Debug)]
pub(super) struct Cells {
    firecracker: PathBuf,
    cgroups: Option<Cgroups>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The directory of the copies, once there is one.
    directory: Option<Arc<Path>>,
    unused: Vec<Arc<Parts>>,
    used: usize,
}

/// What there is of a cell on the host. Drop removes it.
#[derive(Debug)]
struct Parts {
    machine: Machine,
    network: Arc<OwnedFd>,
    /// None where this host has none.
    groups: Option<Cgroup>,
    /// Removed behind the groups: a sweep finds them by its name.
    directory: CellDir,
    program: PathBuf,
}

/// The directory of a cell, with its copy of Firecracker. Drop removes it.
#[derive(Debug)]
struct CellDir(PathBuf);

/// A cell in use. Drop leaves it to the next VM: the one in it must have ended.
#[derive(Debug)]
pub(super) struct Cell {
    cells: Arc<Cells>,
    parts: Arc<Parts>,
    is_sound: bool,
}

impl Cells {
    /// The cells of jails that run `firecracker`, limited by `cgroups`. There are none yet.
    pub(super) fn new(firecracker: PathBuf, cgroups: Option<Cgroups>) -> Self {
        Self {
            firecracker,
            cgroups,
            kept: Mutex::default(),
        }
    }

    /// Takes a cell for a VM of this size, in the directory `owner`, which has to be the same one at each
    /// call.
    pub(super) async fn take(
        self: &Arc<Self>,
        owner: &Arc<RunDirectory>,
        machine: Machine,
    ) -> Result<Cell, VmmError> {
        if let Some(parts) = self.unused(machine) {
            return Ok(self.of(parts));
        }
        let (cells, owner) = (Arc::clone(self), Arc::clone(owner));
        // Takes milliseconds to copy.
        blocking_in_vmm("make a jail", move || cells.make(&owner, machine)).await
    }

    fn of(self: &Arc<Self>, parts: Arc<Parts>) -> Cell {
        Cell {
            cells: Arc::clone(self),
            parts,
            is_sound: true,
        }
    }

    fn unused(&self, machine: Machine) -> Option<Arc<Parts>> {
        let mut kept = self.kept();
        let fits = |parts: &Arc<Parts>| parts.machine == machine;
        let at = kept.unused.iter().rposition(fits)?;
        kept.used += 1;
        Some(kept.unused.remove(at))
    }

    fn make(self: &Arc<Self>, owner: &RunDirectory, machine: Machine) -> Result<Cell, VmmError> {
        let directory = self.directory(owner.path());
        let directory = directory.map_err(VmmError::io(format!(
            "make a directory for copies of Firecracker in {}",
            owner.path().display()
        )))?;
        // Must be unique on the host: control groups are named after it.
        let name = format!("{}-{}", owner.name(), owner.number());
        let directory = CellDir(directory.join(&name));
        let program = directory.fill(&self.firecracker);
        let program = program.map_err(VmmError::io(format!(
            "copy {} to {}",
            self.firecracker.display(),
            directory.0.display()
        )))?;
        let network = sys::new_network();
        let network = network.map_err(VmmError::io("make a network namespace for a jail"))?;
        let groups = self.cgroups.as_ref();
        let groups = groups.map(|cgroups| cgroups.of_machine(&name, machine, owner.path()));
        let groups = groups.transpose();
        let groups = groups.map_err(VmmError::io("make the control groups of a jail"))?;
        self.kept().used += 1;
        Ok(self.of(Arc::new(Parts {
            machine,
            network: Arc::new(network),
            groups,
            directory,
            program,
        })))
    }

    /// Returns the directory of the copies; the first call creates it.
    fn directory(&self, owner: &Path) -> io::Result<Arc<Path>> {
        let mut kept = self.kept();
        if let Some(directory) = &kept.directory {
            return Ok(Arc::clone(directory));
        }
        let made = Arc::from(furnish(owner)?);
        Ok(Arc::clone(kept.directory.insert(made)))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cell {
    /// Returns the path of the trampoline.
    pub(super) fn trampoline(&self) -> PathBuf {
        self.parts.directory.0.with_file_name(TRAMPOLINE)
    }

    /// Returns the path of its Firecracker.
    pub(super) fn program(&self) -> &Path {
        &self.parts.program
    }

    /// Returns its network namespace.
    pub(super) fn network(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.parts.network)
    }

    /// Opens the files by which its VM joins its control groups.
    pub(super) fn entrances(&self) -> io::Result<Vec<File>> {
        let groups = self.parts.groups.as_ref();
        groups.map_or_else(|| Ok(Vec::new()), Cgroup::entrances)
    }

    /// Leaves it to nobody, because something is wrong with it.
    pub(super) fn discard(mut self) {
        self.is_sound = false;
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let is_blank = self.parts.groups.as_ref().is_none_or(Cgroup::is_blank);
        // Dropped without the lock: control groups take the kernel a moment.
        let _surplus = {
            let mut kept = self.cells.kept();
            kept.used -= 1;
            if self.is_sound && is_blank {
                kept.unused.push(Arc::clone(&self.parts));
            }
            // Those first that were not used for longest.
            let surplus = surplus(kept.unused.len(), kept.used);
            kept.unused.drain(..surplus).collect::<Vec<_>>()
        };
    }
}

impl CellDir {
    /// Copies a program into it, which nobody may write to, and every user may read and execute; returns
    /// the path of the copy.
    fn fill(&self, program: &Path) -> io::Result<PathBuf> {
        run_directory::make(&self.0)?;
        let path = self.program();
        sys::with_own_descriptors(|| {
            let (mut program, mut file) = (File::open(program)?, create(&path)?);
            io::copy(&mut program, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(0o555))
        })?;
        Ok(path)
    }

    fn program(&self) -> PathBuf {
        self.0.join(PROGRAM)
    }
}

impl Drop for CellDir {
    fn drop(&mut self) {
        removed(fs::remove_file(self.program()), &self.0);
        removed(fs::remove_dir(&self.0), &self.0);
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
    written.inspect_err(|_| removed(fs::remove_file(&path), &path))?;
    Ok(directory)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn removed(result: io::Result<()>, path: &Path) {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "what jails kept stays while this process lives");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::vm::vmm::run_directory::RunPath;

    #[test]
    fn as_many_unused_cells_are_kept_as_are_in_use() {
        for (unused, used, expected) in [(0, 0, 0), (8, 0, 0), (9, 0, 1), (30, 20, 10), (9, 9, 0)] {
            assert_eq!(surplus(unused, used), expected, "{unused}, {used}");
        }
    }

    fn files(owner: &RunDirectory) -> usize {
        fs::read_dir(owner.path().join(CELLS)).unwrap().count()
    }

    const MACHINE: Machine = Machine {
        memory_mib: 128,
        vcpus: 1,
        disk_mib: None,
    };

    /// A program, the directory of an owner, and cells.
    struct Lab {
        owner: Arc<RunDirectory>,
        cells: Arc<Cells>,
        directory: tempfile::TempDir,
    }

    impl Lab {
        /// Returns `None` if this user can make no namespaces.
        fn new() -> Option<Self> {
            sys::new_network().ok()?;
            let directory = tempfile::tempdir().unwrap();
            let program = directory.path().join("program");
            fs::write(&program, "program").unwrap();
            let run = RunPath::open(&directory.path().join("run")).unwrap();
            Some(Self {
                owner: run.directory().unwrap(),
                cells: Arc::new(Cells::new(program, Cgroups::find())),
                directory,
            })
        }

        async fn take(&self, machine: Machine) -> Result<Cell, VmmError> {
            self.cells.take(&self.owner, machine).await
        }

        async fn cell(&self) -> Cell {
            self.take(MACHINE).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_cell_has_one_vm_at_a_time_and_then_the_next_of_its_size() {
        let Some(lab) = Lab::new() else { return };
        let (one, two) = (lab.cell().await, lab.cell().await);
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
        let larger = Machine {
            memory_mib: 256,
            ..MACHINE
        };
        assert_ne!(lab.take(larger).await.unwrap().program(), first);
        let again = lab.cell().await;
        assert_eq!(again.program(), first);
        again.discard();
        assert!(!first.exists());
        let third = lab.cell().await;
        assert!(![&*first, two.program()].contains(&third.program()));
    }

    #[tokio::test]
    async fn cells_that_many_vms_had_are_given_up_when_these_are_gone() {
        let Some(lab) = Lab::new() else { return };
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(lab.cell().await);
        }
        // And the trampoline.
        assert_eq!(files(&lab.owner), 21);
        all.truncate(10);
        assert_eq!(files(&lab.owner), 21);
        drop(all);
        assert_eq!(files(&lab.owner), MIN_UNUSED + 1);
        drop(lab.cells);
        assert_eq!(files(&lab.owner), 1);
    }

    #[tokio::test]
    async fn what_can_not_be_copied_leaves_nothing_and_is_tried_again() {
        let Some(lab) = Lab::new() else { return };
        let program = lab.directory.path().join("program");
        fs::remove_file(&program).unwrap();
        let error = lab.take(MACHINE).await.unwrap_err();
        assert!(error.to_string().starts_with("could not copy"), "{error}");
        assert_eq!(files(&lab.owner), 1);
        fs::write(&program, "program").unwrap();
        lab.take(MACHINE).await.unwrap();
    }
}
