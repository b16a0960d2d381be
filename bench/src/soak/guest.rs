//! Requests to guests, with the expected answers.

use std::time::Duration;

use anyhow::{Result, bail};
use fastrand::Rng;
use ironclaw_orchestrator::vm::FailureKind;
use ironclaw_orchestrator::vm::{Command, ExitStatus, GuestError, Output, VmHandle};

/// Timeout of a command that ends by itself.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a command that does not.
const CUT_OFF_TIMEOUT: Duration = Duration::from_millis(50);
/// A file in the guest that tells whether it was used before.
const USED_FILE: &str = "/tmp/soak-used";
const CONTENT_FILE: &str = "/tmp/soak-file";
/// Limit of the bytes of content sent into a guest and back.
const MAX_CONTENT_BYTES: usize = 300_000;

/// The programs that a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// A shell and the usual tools.
    Shell,
    /// The built-in commands of the bare-metal test guest.
    Bare,
}

/// A task for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Print,
    Fail,
    Input,
    Flood,
    TimeOut,
    File,
    Missing,
    Cancel,
    Ping,
}

/// The reason why a task failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Mishap {
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// It ended with a wrong result.
    #[error("{0}")]
    Wrong(String),
}

impl Dialect {
    /// Finds out by trying.
    pub(super) async fn detect(vm: &VmHandle) -> Result<Self> {
        for dialect in [Self::Shell, Self::Bare] {
            match vm.exec(dialect.exit(7)).await {
                Ok(output) if output.status == ExitStatus::Code(7) => return Ok(dialect),
                Ok(_) | Err(GuestError::Failed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("the template's guest has neither a shell nor the test guest's built-in commands")
    }

    fn command(self, shell: String, bare: [String; 2]) -> Command {
        match self {
            Self::Shell => ["sh".to_owned(), "-c".to_owned(), shell].into(),
            Self::Bare => bare.into(),
        }
    }

    fn exit(self, code: u8) -> Command {
        let bare = ["fail".to_owned(), code.to_string()];
        self.command(format!("exit {code}"), bare)
            .timeout(COMMAND_TIMEOUT)
    }

    fn flood(self, mebibytes: usize) -> Command {
        let shell = format!("head -c {} /dev/zero", mebibytes << 20);
        let bare = ["flood".to_owned(), mebibytes.to_string()];
        self.command(shell, bare).timeout(COMMAND_TIMEOUT)
    }

    /// Returns a command that never ends.
    pub(super) fn sleep(self) -> Command {
        let bare = ["sleep".to_owned(), 1_000_000.to_string()];
        self.command("exec sleep 1000".to_owned(), bare)
    }
}

/// Fails if the guest has served somebody before; marks it as used.
pub(super) async fn first_use(vm: &VmHandle) -> Result<(), Mishap> {
    match vm.get_file(USED_FILE, 100).await {
        Err(GuestError::Failed {
            kind: FailureKind::NotFound,
            ..
        }) => {}
        Ok(by) => {
            let by = String::from_utf8_lossy(&by);
            return Err(Mishap::Wrong(format!("this guest served {by} before")));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(vm.put_file(USED_FILE, 0o600, vm.name().as_bytes()).await?)
}

impl Deed {
    const ALL: [Self; 9] = [
        Self::Print,
        Self::Fail,
        Self::Input,
        Self::Flood,
        Self::TimeOut,
        Self::File,
        Self::Missing,
        Self::Cancel,
        Self::Ping,
    ];

    pub(super) fn any(rng: &mut Rng) -> Self {
        Self::ALL[rng.usize(..Self::ALL.len())]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Print => "print",
            Self::Fail => "exit code",
            Self::Input => "standard input",
            Self::Flood => "much output",
            Self::TimeOut => "time limit",
            Self::File => "file",
            Self::Missing => "missing program",
            Self::Cancel => "cancelled command",
            Self::Ping => "ping",
        }
    }

    pub(super) async fn perform(
        self,
        vm: &VmHandle,
        dialect: Dialect,
        rng: &mut Rng,
    ) -> Result<(), Mishap> {
        match self {
            Self::Print => {
                let word = format!("{:x}", rng.u64(..));
                let output = vm
                    .exec(Command::new("echo").arg(&*word).timeout(COMMAND_TIMEOUT))
                    .await?;
                expect(&output, ExitStatus::Code(0), format!("{word}\n").as_bytes())
            }
            Self::Fail => {
                let code = rng.u8(..);
                let output = vm.exec(dialect.exit(code)).await?;
                expect(&output, ExitStatus::Code(code), b"")
            }
            Self::Input => {
                let content = content(rng);
                let cat = Command::new("cat")
                    .stdin(content.clone())
                    .timeout(COMMAND_TIMEOUT);
                let output = vm.exec(cat).await?;
                expect(&output, ExitStatus::Code(0), &content)
            }
            Self::Flood => {
                let mebibytes = rng.usize(1..=2);
                let output = vm.exec(dialect.flood(mebibytes)).await?;
                let expected = mebibytes << 20;
                if output.status.success() && output.stdout.len() == expected {
                    return Ok(());
                }
                let (status, printed) = (output.status, output.stdout.len());
                Err(Mishap::Wrong(format!(
                    "{status} after {printed} bytes of {expected}"
                )))
            }
            Self::TimeOut => {
                match vm.exec(dialect.sleep().timeout(CUT_OFF_TIMEOUT)).await {
                    // The time limit was enforced, though the guest was too busy to confirm it: on
                    // a host that runs many more guests than it has processors.
                    Err(GuestError::NoAnswer { .. }) => Ok(()),
                    output => expect(&output?, ExitStatus::TimedOut, b""),
                }
            }
            Self::File => {
                let content = content(rng);
                vm.put_file(CONTENT_FILE, 0o600, &content).await?;
                let back = vm.get_file(CONTENT_FILE, MAX_CONTENT_BYTES as u64).await?;
                if back == content {
                    return Ok(());
                }
                let (put, got) = (content.len(), back.len());
                Err(Mishap::Wrong(format!(
                    "a file of {put} bytes came back with {got}, or changed"
                )))
            }
            Self::Missing => match vm.exec(["no-such-program"]).await {
                Err(GuestError::Failed {
                    kind: FailureKind::NotFound,
                    ..
                }) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(output) => Err(Mishap::Wrong(format!("it ran: {}", output.status))),
            },
            Self::Cancel => {
                drop(vm.start(dialect.sleep()).await?);
                Ok(vm.ping(COMMAND_TIMEOUT).await?)
            }
            Self::Ping => Ok(vm.ping(COMMAND_TIMEOUT).await?),
        }
    }
}

fn content(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(1..MAX_CONTENT_BYTES);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

fn expect(output: &Output, status: ExitStatus, stdout: &[u8]) -> Result<(), Mishap> {
    if output.status == status && output.stdout == stdout {
        return Ok(());
    }
    let Output {
        status: found,
        stdout: printed,
        stderr,
        ..
    } = output;
    Err(Mishap::Wrong(format!(
        "{found} instead of {status}, with {} bytes of output instead of {}, and {:?}",
        printed.len(),
        stdout.len(),
        String::from_utf8_lossy(&stderr[..stderr.len().min(100)])
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_the_right_one() {
        let output = |status, stdout: &[u8]| {
            let mut output = Output::new(status);
            output.stdout = stdout.to_vec();
            output
        };
        let right = output(ExitStatus::Code(3), b"text");
        assert!(expect(&right, ExitStatus::Code(3), b"text").is_ok());
        for wrong in [
            output(ExitStatus::Code(4), b"text"),
            output(ExitStatus::TimedOut, b"text"),
            output(ExitStatus::Code(3), b"tex"),
        ] {
            assert!(expect(&wrong, ExitStatus::Code(3), b"text").is_err());
        }
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        let asked = |seed| {
            let mut rng = Rng::with_seed(seed);
            let deeds: Vec<_> = (0..100).map(|_| Deed::any(&mut rng)).collect();
            (deeds, content(&mut rng))
        };
        assert!(asked(1) == asked(1));
        assert!(asked(1) != asked(2));
    }
}
