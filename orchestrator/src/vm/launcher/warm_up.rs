//! Runs the programs that make a guest of a template warm.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::error::LaunchError;
use crate::template::Template;
use crate::untrusted;
use crate::vm::guest::{Command, ExecEvent, ExitStatus, Guest, GuestError};
use crate::vm::image_command::image_command;

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

/// Runs the template's programs one after the other, as the image's user.
///
/// # Errors
/// [`LaunchError::WarmUp`] with the first one that fails.
pub(super) async fn warm_up(
    guest: &Guest,
    template: &Template,
) -> Result<Vec<Warmed>, LaunchError> {
    let manifest = template.manifest();
    let Some(warm) = &manifest.warm else {
        return Ok(Vec::new());
    };
    let config = manifest.root_origin.as_ref().map(|origin| &origin.config);
    let config = config.cloned().unwrap_or_default();
    let begun = Instant::now();
    let mut warmed = Vec::with_capacity(warm.commands.len());
    for argv in &warm.commands {
        let left = WARM_UP_TIMEOUT.saturating_sub(begun.elapsed());
        let command = image_command(&config, argv).timeout(left.max(Duration::from_millis(1)));
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
