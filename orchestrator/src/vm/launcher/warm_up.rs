//! Runs the programs that make a guest of a template warm.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::error::LaunchError;
use crate::template::Template;
use crate::untrusted;
use crate::vm::guest::{Command, ExecEvent, ExitStatus, Guest, GuestError};

/// Time limit of all programs of a template together: an interpreter takes seconds under a translator,
/// and whatever takes minutes is no preparation.
pub(super) const WARM_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// How much of what a program prints is kept: its end.
const MAX_KEPT: usize = 8 << 10;

/// A program that made a guest warm.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warmed {
    /// The program and its arguments, for people.
    pub command: String,
    /// How long it took.
    pub took: Duration,
    /// The end of what it printed, without control characters.
    pub printed: String,
}

/// Runs the template's programs one after the other. As commands that say nothing of it, they have the user,
/// the directory and the variables of the image.
///
/// # Errors
/// [`LaunchError::WarmUp`] with the first one that fails.
pub(super) async fn warm_up(
    guest: &Guest,
    template: &Template,
) -> Result<Vec<Warmed>, LaunchError> {
    let Some(warm) = &template.manifest().warm else {
        return Ok(Vec::new());
    };
    run_all(guest, &warm.commands).await
}

/// Runs programs, all of them within the time limit.
async fn run_all(guest: &Guest, commands: &[Vec<String>]) -> Result<Vec<Warmed>, LaunchError> {
    let begun = Instant::now();
    let mut warmed = Vec::with_capacity(commands.len());
    for argv in commands {
        let left = WARM_UP_TIMEOUT.saturating_sub(begun.elapsed());
        let command = Command::from(argv.as_slice()).timeout(left.max(Duration::from_millis(1)));
        warmed.push(run(guest, command, argv).await?);
    }
    Ok(warmed)
}

async fn run(guest: &Guest, command: Command, argv: &[String]) -> Result<Warmed, LaunchError> {
    let begun = Instant::now();
    let shown = untrusted::line(&argv.join(" "));
    let mut printed = VecDeque::new();
    let status = follow(guest, command.stderr_to_stdout(), &mut printed).await;
    let printed = untrusted::lines(&String::from_utf8_lossy(printed.make_contiguous()));
    let failed = |reason: String| LaunchError::WarmUp {
        command: shown.clone(),
        reason,
        printed: printed.clone(),
    };
    match status {
        Ok(ExitStatus::Code(0)) => Ok(Warmed {
            command: shown,
            took: begun.elapsed(),
            printed,
        }),
        Ok(ExitStatus::TimedOut) | Err(GuestError::NoAnswer { .. }) => Err(failed(format!(
            "a template's warm-up has {} s",
            WARM_UP_TIMEOUT.as_secs()
        ))),
        Ok(status) => Err(failed(status.to_string())),
        Err(GuestError::Failed { message, .. }) => Err(failed(untrusted::line(&message))),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the end of a command, and keeps the end of what it prints.
async fn follow(
    guest: &Guest,
    command: Command,
    printed: &mut VecDeque<u8>,
) -> Result<ExitStatus, GuestError> {
    let mut running = guest.start(command).await?;
    loop {
        match running.next().await? {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                printed.extend(bytes);
                let surplus = printed.len().saturating_sub(MAX_KEPT);
                printed.drain(..surplus);
            }
            ExecEvent::Ended(status) => return Ok(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use ironclaw_protocol::VERSION;
    use ironclaw_protocol::message::{Outcome, Request, ToHost};
    use tokio::net::UnixStream;
    use tokio::time::sleep;

    use super::*;
    use crate::vm::guest::peer::Peer;

    #[tokio::test(start_paused = true)]
    async fn all_programs_together_have_the_time_of_a_warm_up_and_one_without_end_is_named() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let guest = Guest::open(ours).unwrap();
        let took = WARM_UP_TIMEOUT / 4;
        let mut peer = Peer::new(theirs);
        let answer = async {
            peer.greet(VERSION).await;
            let mut limits = Vec::new();
            loop {
                let (id, request) = peer.request().await;
                let Request::Exec(exec) = request else {
                    panic!("{request:?}");
                };
                limits.push(exec.timeout_ms.unwrap());
                if limits.len() == 2 {
                    // This one never ends, and neither does what should end it.
                    return limits;
                }
                sleep(took).await;
                let outcome = Outcome::Exited(0);
                peer.say(&ToHost::Done { id, outcome }).await;
            }
        };
        let commands = ["quick", "endless", "later"].map(|name| vec![name.to_owned()]);
        let (warmed, limits) = tokio::join!(run_all(&guest, &commands), answer);
        let LaunchError::WarmUp {
            command, reason, ..
        } = warmed.unwrap_err()
        else {
            panic!("it is another error");
        };
        assert_eq!(
            (&*command, &*reason),
            ("endless", "a template's warm-up has 120 s")
        );
        let all = u64::try_from(WARM_UP_TIMEOUT.as_millis()).unwrap();
        assert_eq!(limits[0], all);
        assert!(limits[1] <= all * 3 / 4, "{limits:?}");
    }
}
