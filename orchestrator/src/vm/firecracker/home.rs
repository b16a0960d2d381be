//! The directory that a Firecracker process lives in, and the directory of those.
//!
//! ```text
//! <run directory>/<owner>/          locked while its process lives; swept by the next one
//!                        <vm>/api.sock, vsock.sock
//! ```
//!
//! A process has its own directory as working directory and knows its sockets by their bare
//! names. We reach them through a descriptor of the directory: a socket's path may have 107 bytes
//! only (unix(7)), and state directories are often deeper.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FlockOperation, flock};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::sys;
use crate::vm::vmm::VmmError;

/// The directory of one owner's VMs. Removed when the last user of it is gone.
#[derive(Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
    next: AtomicU64,
    /// Keeps others from sweeping it.
    _lock: File,
}

impl RunDirectory {
    /// Makes a directory for this process below `root`, and removes those of dead ones.
    pub(super) fn create(root: &Path) -> Result<Arc<Self>, VmmError> {
        let failed = |operation: &str, path: &Path| {
            VmmError::io(format!("{operation} the directory {}", path.display()))
        };
        make(root, true).map_err(failed("create", root))?;
        let root_lock = File::open(root).map_err(failed("open", root))?;
        // Held for a few system calls: nobody sees a directory before it is locked.
        flock(&root_lock, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(failed("lock", root))?;
        sweep(root).map_err(failed("clean", root))?;
        let path = root.join(Uuid::now_v7().simple().to_string());
        make(&path, false).map_err(failed("create", &path))?;
        let lock = File::open(&path).map_err(failed("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(failed("lock", &path))?;
        Ok(Arc::new(Self {
            path,
            next: AtomicU64::new(0),
            _lock: lock,
        }))
    }

    /// A directory for one more VM.
    pub(super) fn home(self: &Arc<Self>) -> io::Result<Home> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        make(&path, false)?;
        let directory = Arc::new(OwnedFd::from(File::open(&path)?));
        Ok(Home {
            path,
            directory,
            _run: Arc::clone(self),
        })
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a run directory stays until the next start");
        }
    }
}

fn make(path: &Path, recursive: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
}

/// Removes the directories whose owners are gone.
fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => tracing::debug!(path = %path.display(), "swept the VMs of a dead process"),
            }
        }
    }
    Ok(())
}

/// The directory of one VM. Removed on drop, which must come after the process's end.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    directory: Arc<OwnedFd>,
    _run: Arc<RunDirectory>,
}

impl Home {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn sockets(&self) -> Sockets {
        Sockets(Arc::clone(&self.directory))
    }

    /// Watches for new sockets in it.
    pub(super) fn watch(&self) -> io::Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, &self.path, WatchFlags::CREATE)?;
        Ok(Watch(sys::watch(inotify)?))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a VM's directory stays until the next start");
        }
    }
}

/// Reaches the sockets in a VM's directory, however long its path is.
#[derive(Debug, Clone)]
pub(super) struct Sockets(Arc<OwnedFd>);

impl Sockets {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

/// Tells when something is new in a directory.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Connects to the socket at `path` as soon as somebody listens there.
    pub(super) async fn connect(&self, path: &Path) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == ErrorKind::NotFound => self.changed().await?,
                // Between its bind and its listen, a few microseconds.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0; 1024];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|inotify| Ok(rustix::io::read(inotify.as_fd(), &mut buffer)?)) {
                Ok(events) => return events.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(path: &Path) -> Vec<String> {
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn homes_are_private_and_go_with_their_vm_and_the_rest_with_the_last_of_them() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(root.path()).unwrap();
        let (one, two) = (run.home().unwrap(), run.home().unwrap());
        for home in [&one, &two] {
            let mode = fs::metadata(home.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        let gone = one.path().to_owned();
        fs::write(gone.join("left"), "over").unwrap();
        drop(one);
        assert!(!gone.exists());
        drop(run);
        assert_eq!(names(root.path()).len(), 1, "a VM lives in it");
        drop(two);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn only_what_a_dead_process_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let living = RunDirectory::create(root.path()).unwrap();
        let dead = root.path().join("dead");
        fs::create_dir_all(dead.join("0")).unwrap();
        fs::write(dead.join("0/api.sock"), "").unwrap();
        let _next = RunDirectory::create(root.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path.exists());
    }

    #[tokio::test]
    async fn a_socket_is_connected_to_when_it_appears_however_deep_it_is() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        let run = RunDirectory::create(&deep).unwrap();
        let home = run.home().unwrap();
        let watch = home.watch().unwrap();
        let path = home.sockets().path("api.sock");
        let listen = async {
            tokio::task::yield_now().await;
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            listener.accept().await.unwrap();
        };
        let (connected, ()) = tokio::join!(watch.connect(&path), listen);
        connected.unwrap();
    }
}
