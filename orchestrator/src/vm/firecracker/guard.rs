//! A PID namespace that ends with this process.
//!
//! The kernel kills all of a PID namespace when its first process ends (pid_namespaces(7)). That
//! first process is the guard: it reads a pipe whose other end we hold, and so ends when we do,
//! even by SIGKILL. The parent-death signal that keeps other VMMs from outliving us does not
//! survive the jailer's change of user (prctl(2)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::sys;

/// The guard of one PID namespace; dropping it kills all processes in it.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    namespace: Arc<OwnedFd>,
}

impl Guard {
    /// Makes a namespace. Needs CAP_SYS_ADMIN.
    pub(super) fn start() -> io::Result<Self> {
        // Where a thread's children go can't be changed back: a thread for this alone.
        let spawned = std::thread::Builder::new()
            .name("vmm-guard".to_owned())
            .spawn(|| {
                sys::new_pid_namespace()?;
                Command::new("/bin/cat")
                    .env_clear()
                    .current_dir("/")
                    // Not of our terminal's group: Ctrl-C is ours to handle.
                    .process_group(0)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            })?;
        let mut process = spawned
            .join()
            .map_err(|_| io::Error::other("the thread that starts the guard panicked"))??;
        match File::open(format!("/proc/{}/ns/pid", process.id())) {
            Ok(namespace) => Ok(Self {
                process,
                namespace: Arc::new(namespace.into()),
            }),
            Err(error) => {
                end(&mut process);
                Err(error)
            }
        }
    }

    /// The namespace, for processes to be started in.
    pub(super) fn namespace(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.namespace)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    // It has ended already, or it is ours to reap.
    let _ = process.kill();
    let _ = process.wait();
}
