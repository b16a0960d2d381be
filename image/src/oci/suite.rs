//! A root of Debian's packages, which `mmdebstrap` installs.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::time::Duration;

use ironclaw_host::untrusted;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;

use super::child::Running;
use super::error::SourceError;

/// The program.
pub(super) const PROGRAM: &str = "mmdebstrap";
/// Time that it has to download and install packages.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(3600);
/// What is read of the end of its messages, in bytes.
const MAX_MESSAGES: u64 = 2000;

/// What the program's messages have where its user may make no namespace.
const NAMESPACE_WORDS: [&str; 3] = ["subuid", "unshare", "newuidmap"];
/// What to do about that.
const NAMESPACE_HINT: &str = " (without root it takes user namespaces, the package uidmap, and ranges of ids in \
    /etc/subuid and /etc/subgid: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`)";

/// An installation under way: reads the archive of the root.
pub(super) struct Installation {
    running: Running,
    messages: File,
}

impl Installation {
    /// Starts to install a suite with packages beside the required ones: as root in a directory, as another
    /// user in a user namespace. Left to itself the program would try without one, too, where it runs
    /// programs of the suite with libraries of the host.
    pub(super) fn start(
        program: &str,
        suite: &str,
        packages: &[String],
    ) -> Result<Self, SourceError> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => SourceError::NoMmdebstrap,
            _ => refused(suite, &error.to_string()),
        };
        let messages = File::from(
            memfd_create(PROGRAM, MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?,
        );
        let mut command = Command::new(program);
        command.args([mode(), "--variant=minbase", "--format=tar"]);
        if !packages.is_empty() {
            command.arg(format!("--include={}", packages.join(",")));
        }
        command.args(["--", suite, "-"]).env("LC_ALL", "C");
        command
            .stdin(Stdio::null())
            .stderr(messages.try_clone().map_err(failed)?);
        let running = Running::start(&mut command, INSTALL_TIMEOUT).map_err(failed)?;
        Ok(Self { running, messages })
    }

    /// Waits for its end; an error, with the end of what it said, if it failed.
    pub(super) fn finish(mut self, suite: &str) -> Result<(), SourceError> {
        let ended = self.running.wait();
        let status = ended.map_err(|error| refused(suite, &error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let length = self.messages.metadata().map_or(0, |it| it.len());
        let begin = length.saturating_sub(MAX_MESSAGES);
        let mut text = Vec::new();
        if self.messages.seek(SeekFrom::Start(begin)).is_ok() {
            drop(self.messages.take(MAX_MESSAGES).read_to_end(&mut text));
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        // Its errors begin so; all else is what it does.
        let errors: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("E: "))
            .collect();
        let text = if errors.is_empty() {
            text
        } else {
            errors.join("; ")
        };
        let hint = if NAMESPACE_WORDS.iter().any(|word| text.contains(word)) {
            NAMESPACE_HINT
        } else {
            ""
        };
        Err(refused(suite, &format!("{status}: {}{hint}", text.trim())))
    }
}

/// Returns how the program makes the suite's files.
fn mode() -> &'static str {
    if geteuid().is_root() {
        "--mode=root"
    } else {
        "--mode=unshare"
    }
}

impl Read for Installation {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.running.read(buffer)
    }
}

fn refused(suite: &str, reason: &str) -> SourceError {
    SourceError::Suite {
        suite: suite.to_owned(),
        reason: untrusted::message(&untrusted::line(reason)),
    }
}

/// Returns whether a text is the name of a suite: no option, and no file.
pub(super) fn is_suite(text: &str) -> bool {
    is_word(text, b"-._")
}

/// Returns whether a text is the name of a package, perhaps with its version or architecture.
pub(super) fn is_package(text: &str) -> bool {
    is_word(text, b"-._+:=~")
}

fn is_word(text: &str, more: &[u8]) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_alphanumeric();
    text.len() <= 128
        && text.as_bytes().first().is_some_and(is_alphanumeric)
        && text
            .bytes()
            .all(|byte| is_alphanumeric(&byte) || more.contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_program_gets_suite_and_packages_and_its_errors_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let script = "#!/bin/sh\necho \"$@\"\necho 'I: working' >&2\necho 'E: no such suite' >&2\n\
                      [ \"$5\" != none ] || echo 'E: failed to parse /etc/subuid' >&2\n\
                      [ \"$5\" != bad ] && [ \"$5\" != none ]\n";
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let program = path.to_str().unwrap();
        let packages = ["git".to_owned(), "python3".to_owned()];
        let mut installation = Installation::start(program, "sid", &packages).unwrap();
        let mut said = String::new();
        installation.read_to_string(&mut said).unwrap();
        let expected = "--variant=minbase --format=tar --include=git,python3 -- sid -";
        assert_eq!(said, format!("{} {expected}\n", mode()));
        installation.finish("sid").unwrap();
        let mut installation = Installation::start(program, "bad", &[]).unwrap();
        installation.read_to_string(&mut said).unwrap();
        let text = installation.finish("bad").unwrap_err().to_string();
        assert!(
            text.starts_with("debian:bad can't be installed: exit status: 1"),
            "{text}"
        );
        assert!(text.ends_with("E: no such suite"), "{text}");
        let mut installation = Installation::start(program, "none", &[]).unwrap();
        installation.read_to_string(&mut said).unwrap();
        let text = installation.finish("none").unwrap_err().to_string();
        assert!(text.contains("--add-subuids"), "{text}");
        let missing = Installation::start("/nowhere/mmdebstrap", "sid", &[]);
        let text = missing.err().unwrap().to_string();
        assert!(text.contains("apt-get install mmdebstrap"), "{text}");
    }

    #[test]
    fn names_are_no_options() {
        assert!(is_suite("bookworm-backports") && is_package("libc6-dev:amd64=2.36~1"));
        for text in ["", "-x", "a b", "a,b", "../a", "--hook=x"] {
            assert!(!is_suite(text) && !is_package(text), "{text}");
        }
    }
}
