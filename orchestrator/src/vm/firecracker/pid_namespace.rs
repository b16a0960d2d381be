//! A PID namespace that ends with this process.
//!
//! The kernel kills all processes of a PID namespace when its first one ends (pid_namespaces(7)).
//! That first process is a `cat` that reads from a pipe whose other end we hold, and so ends when
//! we do, even by SIGKILL. The parent-death signal, which keeps other VMMs from outliving us, does
//! not survive the jailer's change of user (prctl(2)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys;

/// The PID namespace that processes are started in.
#[derive(Debug)]
pub(super) struct PidNamespaces(Mutex<Arc<PidNamespace>>);

/// A PID namespace; dropping it kills all processes there, so each of them has a reference: a standby
/// process serves other pools when the one that started it is closed.
#[derive(Debug)]
pub(super) struct PidNamespace {
    first: Child,
    itself: Arc<OwnedFd>,
}

impl PidNamespaces {
    /// Creates a namespace. Needs CAP_SYS_ADMIN.
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self(Mutex::new(Arc::new(PidNamespace::start()?))))
    }

    /// Returns the namespace to start processes in. Creates a new one if the first process of the
    /// last was killed: that namespace is dead, and accepts no more processes.
    pub(super) fn current(&self) -> Arc<PidNamespace> {
        let mut namespace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !namespace.is_alive() {
            match PidNamespace::start() {
                Ok(next) => *namespace = Arc::new(next),
                Err(error) => tracing::warn!(%error, "no PID namespace can be made for jailed VMs"),
            }
        }
        Arc::clone(&namespace)
    }
}

impl PidNamespace {
    /// Returns its descriptor, for setns(2).
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.itself)
    }

    fn start() -> io::Result<Self> {
        // A thread can't change back the namespace of its future children: this one exists for
        // nothing else.
        let spawned = std::thread::Builder::new()
            .name("vmm-guard".to_owned())
            .spawn(|| {
                sys::new_pid_namespace()?;
                let mut cat = Command::new("/bin/cat");
                sys::inherit_only(&mut cat, &[]);
                cat.env_clear()
                    .current_dir("/")
                    // In a process group of its own, so that Ctrl-C on our terminal does not reach
                    // it.
                    .process_group(0)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            })?;
        let mut first = spawned
            .join()
            .map_err(|_| io::Error::other("the thread that starts the guard panicked"))??;
        match File::open(format!("/proc/{}/ns/pid", first.id())) {
            Ok(itself) => Ok(Self {
                first,
                itself: Arc::new(itself.into()),
            }),
            Err(error) => {
                end(&mut first);
                Err(error)
            }
        }
    }
}

impl PidNamespace {
    /// Returns whether processes can be started in it. Its first process can't be reaped before all
    /// others were, and is without its program from before the kernel kills these. Nobody but us reaps
    /// it, so that its number is not another process's.
    fn is_alive(&self) -> bool {
        let program = format!("/proc/{}/exe", self.first.id());
        match std::fs::read_link(program) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        end(&mut self.first);
    }
}

fn end(process: &mut Child) {
    // Either it has ended already, or it is our child and can't be reaped by others.
    let _ = process.kill();
    let _ = process.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_without_its_first_process_is_not_alive() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut namespace = PidNamespace::start().unwrap();
        assert!(namespace.is_alive());
        namespace.first.kill().unwrap();
        let pidfd = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&namespace.first),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        // Dead, and not reaped.
        let mut ends = [rustix::event::PollFd::new(
            &pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut ends, None).unwrap();
        assert!(!namespace.is_alive());
    }

    #[test]
    fn a_guard_has_no_descriptor_of_ours_but_the_pipe_that_it_reads() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let stray = tempfile::NamedTempFile::new().unwrap();
        let open = rustix::io::dup(stray.as_file()).unwrap();
        let namespace = PidNamespace::start().unwrap();
        let directory = format!("/proc/{}/fd", namespace.first.id());
        let descriptors = std::fs::read_dir(directory).unwrap();
        let files: Vec<_> = descriptors
            .filter_map(|descriptor| std::fs::read_link(descriptor.unwrap().path()).ok())
            .collect();
        drop(open);
        assert!(!files.iter().any(|file| file == stray.path()), "{files:?}");
    }
}
