//! Adds to an error of the host which of its limits was reached, and how to raise it.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::own_groups;

/// The limit of processes and threads of a control group.
const PROCESSES: own_groups::Limit = own_groups::Limit {
    controller: "pids",
    version_2: "pids.max",
    version_1: "pids.max",
};

/// Names the limit that kept a process or a thread from being started, if `error` is of that kind.
#[must_use]
pub fn of_start(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::AGAIN) => io::Error::new(error.kind(), no_more_processes()),
        _ => of_files(error),
    }
}

/// Returns how many files this process may have open; `None`: any number.
#[must_use]
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Lets this process have as many open files as it may let itself have: raises the soft limit to the
/// hard one. The usual soft limit of 1024 exists for programs that use select(2), which can't handle
/// higher numbers, so this is for a whole program to decide, and not for a library. Programs that it
/// starts from then on inherit the limit.
///
/// # Errors
/// The kernel's; the limit stays as it is.
pub fn raise_open_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, most)?)
}

/// Checks that a program that this process starts may write a file of `bytes`. Writing more would end
/// it by a signal (SIGXFSZ), as it would this process.
///
/// # Errors
/// The limit that is in force, and that it is too low.
pub fn of_file_size(bytes: u64) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if limit < bytes => {
            let text = file_size(Some(limit));
            let text = format!("{text}; here it takes {bytes}");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
        }
        _ => Ok(()),
    }
}

fn file_size(limit: Option<u64>) -> String {
    let limit = limit.map_or_else(String::new, |limit| format!("of at most {limit} bytes "));
    format!("this process may write files {limit}(ulimit -f): raise that")
}

/// Names the limit of open files or of the size of a file, if `error` is of that kind.
#[must_use]
pub fn of_files(error: io::Error) -> io::Error {
    match advice(&error) {
        Some(text) => io::Error::new(error.kind(), text),
        None => error,
    }
}

/// Returns the text of `error`, which stays as it is, or the limit of [`of_files`] if that was
/// reached.
#[must_use]
pub fn text(error: &io::Error) -> String {
    advice(error).unwrap_or_else(|| error.to_string())
}

/// Returns the limit of open files or of the size of a file that `error` is about, and what to do.
#[must_use]
pub fn advice(error: &io::Error) -> Option<String> {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.map_or_else(String::new, |limit| format!("at most {limit} "));
            Some(format!(
                "this process may have {limit}open files (ulimit -n): raise that, or have fewer VMs"
            ))
        }
        Some(Errno::FBIG) => Some(file_size(getrlimit(Resource::Fsize).current)),
        Some(Errno::NFILE) => {
            Some("the host may have no more open files (sysctl fs.file-max): raise that".to_owned())
        }
        _ => None,
    }
}

/// Returns the text of an error that no process or thread can be started, with the limits in force.
fn no_more_processes() -> String {
    let user = getrlimit(Resource::Nproc).current;
    let user = user.map(|limit| format!("this user may have at most {limit} (ulimit -u)"));
    let group = PROCESSES.least();
    let group = group.map(|limit| format!("this control group at most {limit} (pids.max)"));
    let limits = match (user, group) {
        (Some(user), Some(group)) => format!("{user}, and {group}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => {
            "the host may have no more (sysctl kernel.pid_max, kernel.threads-max)".to_owned()
        }
    };
    format!("no more processes and threads can be started: {limits}; raise that")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_limit_forbids_may_be_written() {
        let limit = getrlimit(Resource::Fsize).current;
        of_file_size(limit.unwrap_or(u64::MAX)).unwrap();
        assert_eq!(of_file_size(u64::MAX).is_ok(), limit.is_none());
        assert!(file_size(Some(4096)).contains("at most 4096 bytes (ulimit -f)"));
    }

    /// Set for the process that raises its limit.
    const RAISES: &str = "IRONCLAW_TEST_RAISES_FILES";

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_one() {
        if std::env::var_os(RAISES).is_some() {
            assert_eq!(open_files(), Some(64));
            raise_open_files().unwrap();
            assert_eq!(open_files(), Some(128));
            return;
        }
        let name = std::thread::current().name().unwrap().to_owned();
        let raises = std::process::Command::new("/bin/sh")
            .args(["-c", "ulimit -Sn 64; ulimit -Hn 128; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .env(RAISES, "1")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&raises.stdout);
        assert!(
            raises.status.success() && printed.contains("1 passed"),
            "{raises:?}"
        );
    }

    #[test]
    fn errors_of_a_limit_name_it_and_others_stay() {
        let told = |errno: Errno| of_start(errno.into()).to_string();
        assert!(told(Errno::MFILE).contains("ulimit -n"));
        assert!(told(Errno::NFILE).contains("fs.file-max"));
        assert!(told(Errno::FBIG).contains("ulimit -f"));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOENT] {
            let error = io::Error::from(errno);
            assert_eq!(text(&error), of_files(errno.into()).to_string());
            assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
        }
        let processes = told(Errno::AGAIN);
        assert!(
            ["ulimit -u", "pids.max", "pid_max"]
                .iter()
                .any(|name| processes.contains(name)),
            "{processes}"
        );
        assert_eq!(
            told(Errno::NOENT),
            io::Error::from(Errno::NOENT).to_string()
        );
        assert_eq!(
            of_files(Errno::AGAIN.into()).raw_os_error(),
            Some(libc::EAGAIN)
        );
    }
}
