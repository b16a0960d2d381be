//! The chroot of a jailed Firecracker process, accessed from outside; without a jailer, the working
//! directory of the process.
//!
//! Without a jail, the process sees the host's file system, or this directory alone if Landlock
//! restricts it. In a jail, this directory is all that it sees. Files to read are linked in, and
//! files that it wrote are retrieved. A guest may have taken the process over, so no link in here
//! is followed.
//!
//! Sockets are reached through descriptors: the path of a socket is limited to 107 bytes (unix(7)),
//! and state directories are often deeper.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, symlinkat, unlinkat,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::sys;
use crate::vm::vmm::jail::readable_by;
use crate::vm::vmm::{DiskId, VmmError};

/// Shortest interval of attempts to connect to a socket of a starting process, which takes 2 ms to
/// create it.
const CONNECT_INTERVAL: Duration = Duration::from_micros(100);
/// The part of the time waited until now that the next interval may take. Attempts at a steady
/// interval took milliseconds of processor time where a jail, or a busy host, lets one wait long.
const CONNECT_SHARE: u32 = 16;

/// The root directory of a jailed VM, or the working directory of another.
#[derive(Debug, Clone)]
pub(super) struct Chroot {
    path: Arc<Path>,
    directory: Arc<OwnedFd>,
    sees: Sees,
}

/// The part of the host's files that a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// Everything that its user may read.
    Host,
    /// This directory, as its root; the process has this user and group.
    Jail { user: u32, group: u32 },
    /// This directory for reading, and [`WRITTEN`] and [`DISKS`] in it for writing.
    Directory,
}

/// Name of the pipe for Firecracker's log: its standard output is the guest's console.
pub(super) const LOG: &str = "log";

/// The directory for a snapshot of a process that can write nowhere else.
pub(super) const WRITTEN: &str = "written";

/// The directory of the disks that the guest writes to. Images and other files that it only reads
/// are beside it: they may be links to files of this user, which Landlock would let be written here.
pub(super) const DISKS: &str = "disks";

impl Chroot {
    /// Opens the directory at `path`, for a process that sees this part of the host's files.
    pub(super) fn open(path: &Path, sees: Sees) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self {
            path: path.into(),
            directory: Arc::new(openat(CWD, path, flags, Mode::empty())?),
            sees,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it is the root directory of a jail.
    pub(super) fn is_jail(&self) -> bool {
        matches!(self.sees, Sees::Jail { .. })
    }

    pub(super) fn sees(&self) -> Sees {
        self.sees
    }

    /// Creates a pipe `name` that the process may write to; returns the end for reading.
    pub(super) fn pipe(&self, name: &str) -> io::Result<OwnedFd> {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(&self.directory, name, FileType::Fifo, mode, 0)?;
        // Non-blocking: does not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = openat(&self.directory, name, flags, Mode::empty())?;
        self.give(&pipe)?;
        Ok(pipe)
    }

    /// Makes the process the owner of a file, if it has another user.
    fn give(&self, file: impl AsFd) -> io::Result<()> {
        match self.sees {
            Sees::Jail { user, .. } => fchown(file, Some(user), None),
            Sees::Host | Sees::Directory => Ok(()),
        }
    }

    /// Creates the directory of its disks, [`DISKS`].
    pub(super) fn make_disks(&self) -> io::Result<()> {
        mkdirat(&self.directory, DISKS, Mode::RWXU)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        self.give(openat(&self.directory, DISKS, flags, Mode::empty())?)
    }

    /// Creates an empty file for a disk that the process may write to; returns it, and the path for the
    /// process to open.
    pub(super) fn create_disk(&self, id: &DiskId) -> Result<File, VmmError> {
        let path = disk_path(id);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || -> io::Result<File> {
            let file = openat(&self.directory, &path, flags, Mode::RUSR | Mode::WUSR)?;
            self.give(&file)?;
            Ok(file.into())
        };
        let shown = self.path.join(&path);
        create().map_err(VmmError::io(format!("create the disk {}", shown.display())))
    }

    /// Exposes an image to the process for reading, under a path that is the same for each process;
    /// returns it.
    pub(super) fn expose_image(&self, image: &Path, id: &DiskId) -> Result<PathBuf, VmmError> {
        let name = format!("image-{id}");
        if self.sees != Sees::Host {
            return self.expose_read_only(image, &name);
        }
        // Only the name is its own: a link between file systems would not be possible.
        let failed = || VmmError::io(format!("link to the image {}", image.display()));
        let image = image.canonicalize().map_err(failed())?;
        symlinkat(&image, &self.directory, &name)
            .map_err(io::Error::from)
            .map_err(failed())?;
        Ok(name.into())
    }

    /// Connects to the socket `name`, however long this directory's path is.
    pub(super) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = openat(&self.directory, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode);
        if kind != FileType::Socket {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{name} is not a socket"),
            ));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Connects to the socket `name` as soon as somebody listens there.
    ///
    /// Polls, at first every few microseconds: to be notified of a new file costs more, because the
    /// kernel takes milliseconds to close an inotify descriptor.
    pub(super) async fn connect_when_up(&self, name: &str) -> io::Result<UnixStream> {
        let (begun, timer) = (Instant::now(), Timer::new()?);
        loop {
            match self.connect(name).await {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    timer.sleep(pause_after(begun.elapsed())).await?;
                }
                other => return other,
            }
        }
    }

    /// Exposes `file` to the process for reading, in a chroot as `name`; returns the path for the
    /// process to open.
    pub(super) fn expose_read_only(&self, file: &Path, name: &str) -> Result<PathBuf, VmmError> {
        let failed = || VmmError::io(format!("let a jailed VM read {}", file.display()));
        match self.sees {
            Sees::Host => return Ok(file.to_owned()),
            Sees::Jail { group, .. } => readable_by(file, group).map_err(failed())?,
            Sees::Directory => {}
        }
        match linkat(CWD, file, &self.directory, name, AtFlags::empty()) {
            Ok(()) => Ok(name.into()),
            Err(rustix::io::Errno::XDEV) => Err(VmmError::io(format!(
                "link {} into {}: set `run_path` to a directory of the same file system",
                file.display(),
                self.path.display()
            ))(rustix::io::Errno::XDEV.into())),
            Err(errno) => Err(failed()(errno.into())),
        }
    }

    /// Links a file that every process may read and execute into the directory.
    pub(super) fn link(&self, file: &Path, name: &str) -> io::Result<()> {
        Ok(linkat(CWD, file, &self.directory, name, AtFlags::empty())?)
    }

    /// Prepares a file for the process to write, which [`retrieve`](Self::retrieve) moves to
    /// `target`; returns the path for the process to open.
    pub(super) fn prepare_output(&self, target: &Path, name: &str) -> Result<PathBuf, VmmError> {
        match self.sees {
            Sees::Host => {}
            Sees::Jail { .. } => return Ok(name.into()),
            Sees::Directory => return Ok(Path::new(WRITTEN).join(name)),
        }
        // Firecracker would create it readable for everybody.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(CWD, target, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map_err(VmmError::io(format!("create {}", target.display())))?;
        Ok(target.to_owned())
    }

    /// Moves the file that the process wrote to `target`, with mode 0600.
    pub(super) fn retrieve(&self, target: &Path, name: &str) -> Result<(), VmmError> {
        let name = match self.sees {
            Sees::Host => return Ok(()),
            Sees::Jail { .. } => PathBuf::from(name),
            Sees::Directory => Path::new(WRITTEN).join(name),
        };
        let written = self.path.join(&name);
        let retrieve = || -> io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(openat(&self.directory, &name, flags, Mode::empty())?);
            link_own_file(&file, target)?;
            // Ignores whatever the process may have put there meanwhile: it goes with the chroot.
            let _ = unlinkat(&self.directory, &name, AtFlags::empty());
            Ok(())
        };
        retrieve().map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::CrossesDevices => {
                    ": set `run_path` to a directory of the same file system"
                }
                _ => "",
            };
            let (written, target) = (written.display(), target.display());
            VmmError::io(format!("take {written} to {target}{advice}"))(error)
        })
    }
}

/// Returns the path of a disk that the process writes to, in its directory.
pub(super) fn disk_path(id: &DiskId) -> PathBuf {
    Path::new(DISKS).join(id.as_str())
}

/// Links the open `file` to `target`, with mode 0600. Works on the descriptor, so the VMM can't
/// swap the file by a rename after the check (TOCTOU); refuses a hard link, which may be to another
/// user's file.
fn link_own_file(file: &File, target: &Path) -> io::Result<()> {
    let facts = file.metadata()?;
    if !facts.is_file() || facts.nlink() != 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not a file of its own",
        ));
    }
    let us = rustix::process::geteuid().as_raw();
    fchown(file, Some(us), Some(rustix::process::getegid().as_raw()))?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, itself, CWD, target, AtFlags::SYMLINK_FOLLOW)?)
}

/// Returns the pause before the next attempt to connect, after attempts for this time.
fn pause_after(waited: Duration) -> Duration {
    CONNECT_INTERVAL.max(waited / CONNECT_SHARE)
}

/// A timer with a finer resolution than the runtime's, which is a millisecond.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(sys::readable(timer)?))
    }

    async fn sleep(&self, pause: Duration) -> io::Result<()> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let setting = Itimerspec {
            it_interval: zero,
            it_value: Timespec::try_from(pause).map_err(io::Error::other)?,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
        let mut count = [0; 8];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|timer| Ok(rustix::io::read(timer.as_fd(), &mut count)?)) {
                Ok(ticked) => {
                    // It expires only once.
                    ready.clear_ready();
                    return ticked.map(drop);
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tokio::net::UnixListener;

    fn jailed_as_us() -> Sees {
        Sees::Jail {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        }
    }

    #[tokio::test]
    async fn a_socket_is_connected_to_when_it_is_there_however_deep_that_is() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let chroot = Chroot::open(&deep, Sees::Host).unwrap();
        let directory = File::open(&deep).unwrap();
        let path = format!("/proc/self/fd/{}/api.sock", directory.as_raw_fd());
        let listen = async {
            tokio::task::yield_now().await;
            let listener = UnixListener::bind(&path).unwrap();
            listener.accept().await.unwrap();
        };
        let (connected, ()) = tokio::join!(chroot.connect_when_up("api.sock"), listen);
        connected.unwrap();
    }

    #[test]
    fn a_start_that_takes_long_is_not_looked_for_at_a_steady_rate() {
        let attempts = |start: Duration| {
            let next = |waited: &Duration| Some(*waited + pause_after(*waited));
            let until = std::iter::successors(Some(Duration::ZERO), next);
            until.take_while(|waited| *waited < start).count()
        };
        assert_eq!(attempts(Duration::from_millis(1)), 10);
        assert!(attempts(Duration::from_millis(30)) < 80);
        assert!(attempts(Duration::from_secs(10)) < 200);
        // It is seen soon nevertheless.
        let seen = Duration::from_millis(30);
        assert!(pause_after(seen) < seen / 10);
    }

    #[test]
    fn a_pipe_delivers_what_is_written_to_it() {
        use std::io::{Read as _, Write as _};
        let dir = tempfile::tempdir().unwrap();
        let chroot = Chroot::open(dir.path(), Sees::Host).unwrap();
        let mut out = File::from(chroot.pipe("log").unwrap());
        // As Firecracker opens it.
        let mut options = File::options();
        let mut log = options.read(true).write(true).open(dir.path().join("log"));
        log.as_mut().unwrap().write_all(b"words").unwrap();
        let mut words = [0; 5];
        out.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"words");
        assert!(chroot.pipe("log").is_err(), "there is one");
    }

    #[tokio::test]
    async fn connect_refuses_links_and_other_files() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside.sock");
        let _listener = UnixListener::bind(&outside).unwrap();
        let dir = root.path().join("home");
        fs::create_dir(&dir).unwrap();
        symlink(&outside, dir.join("link")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let chroot = Chroot::open(&dir, Sees::Host).unwrap();
        assert!(chroot.connect("link").await.is_err());
        assert!(chroot.connect("file").await.is_err());
    }

    #[test]
    fn retrieve_refuses_links() {
        let root = tempfile::tempdir().unwrap();
        let (dir, secret) = (root.path().join("home"), root.path().join("secret"));
        fs::create_dir(&dir).unwrap();
        fs::write(&secret, "secret").unwrap();
        let chroot = Chroot::open(&dir, jailed_as_us()).unwrap();
        let target = root.path().join("taken");
        symlink(&secret, dir.join("soft")).unwrap();
        fs::hard_link(&secret, dir.join("hard")).unwrap();
        for name in ["soft", "hard", "missing"] {
            assert!(chroot.retrieve(&target, name).is_err(), "{name}");
            assert!(!target.exists());
        }
        fs::write(dir.join("own"), "own").unwrap();
        chroot.retrieve(&target, "own").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"own");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn retrieve_is_immune_to_a_rename_race() {
        let root = tempfile::tempdir().unwrap();
        let (dir, secret) = (root.path().join("home"), root.path().join("secret"));
        fs::create_dir(&dir).unwrap();
        fs::write(&secret, "secret").unwrap();
        let (written, target) = (dir.join("memory"), root.path().join("taken"));
        fs::write(&written, "own").unwrap();
        let file = File::open(&written).unwrap();
        // A jailed process may do this at any moment.
        fs::rename(&written, dir.join("away")).unwrap();
        symlink(&secret, &written).unwrap();
        link_own_file(&file, &target).unwrap();
        assert!(fs::symlink_metadata(&target).unwrap().is_file());
        assert_eq!(fs::read(&target).unwrap(), b"own");
    }

    #[test]
    fn an_exposed_file_can_be_read_and_its_directory_stays_closed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, file) = (root.path().join("home"), root.path().join("memory"));
        fs::create_dir(&dir).unwrap();
        fs::write(&file, "pages").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let free = Chroot::open(&dir, Sees::Host).unwrap();
        assert_eq!(free.expose_read_only(&file, "memory").unwrap(), file);
        let jailed = Chroot::open(&dir, jailed_as_us()).unwrap();
        assert_eq!(
            jailed.expose_read_only(&file, "memory").unwrap(),
            Path::new("memory")
        );
        let lent = fs::metadata(dir.join("memory")).unwrap();
        assert_eq!((lent.nlink(), lent.mode() & 0o777), (2, 0o640));
        let image = root.path().join("image");
        fs::write(&image, "for all").unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o644)).unwrap();
        jailed.expose_read_only(&image, "image").unwrap();
        let lent = fs::metadata(&image).unwrap();
        assert_eq!(
            lent.mode() & 0o777,
            0o644,
            "what all may read stays as it is"
        );
    }
}
