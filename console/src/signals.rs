//! Signals to this program: most end it; while a command runs in a guest, they are forwarded to it.

use std::future::{Future, pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result};
use procfs::process::Process;
use rustix::process::{Signal, getpid, kill_process};
use thiserror::Error;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep_until};

/// Signals that end a program by default, and can be caught to end in order.
const TERMINATING: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
];

/// Other signals that a command may want, which don't end this program.
const FORWARDED: [Signal; 3] = [Signal::CONT, Signal::TSTP, Signal::WINCH];

/// Keeps this program from ending where it writes more to a file than it may (`ulimit -f`): the write
/// fails, and its error says so. Programs that it starts end by the signal as before.
///
/// # Errors
/// The kernel's.
pub fn outlive_file_limit() -> Result<()> {
    let signal = SignalKind::from_raw(Signal::XFSZ.as_raw());
    // Its handler stays, though nobody listens.
    let listened = unix::signal(signal).map(drop);
    listened.context("can't listen for signals")
}

/// The error of a program that a signal asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("ended by a signal")]
pub struct Interrupted(pub Signal);

impl Interrupted {
    /// Returns its exit code, as shells do: 128 plus the signal's number.
    pub fn exit_code(self) -> u8 {
        exit_code(self.0)
    }
}

/// The error of a command that did not end in time after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the command did not end within {KILL_AFTER:?} of {}, and was killed", name(self.0))]
pub struct NotEnded(pub Signal);

/// Time that a command has to end after the signal that asked it to.
pub const KILL_AFTER: Duration = Duration::from_secs(10);

/// Signals within this time count as one: timeout(1) and others signal a process and its group,
/// which delivers it twice. Nobody presses Ctrl-C this fast.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(50);

/// Decides what to do with signals while a command runs.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// The first signal that asked the command to end, and its time.
    asked: Option<(Signal, Instant)>,
}

/// The effect of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Forward it to the command.
    Forward,
    /// Kill the command: this signal asked it to end before, and its user waits no longer.
    Kill(Signal),
}

impl Forwarding {
    /// Handles a signal. The first that asks the command to end starts its time limit; an interrupt
    /// after that kills it.
    pub fn receive(&mut self, signal: Signal, now: Instant) -> Effect {
        match self.asked {
            Some((first, at)) if signal == Signal::INT && now >= at + DUPLICATE_WINDOW => {
                Effect::Kill(first)
            }
            None if [Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal) => {
                self.asked = Some((signal, now));
                Effect::Forward
            }
            _ => Effect::Forward,
        }
    }

    /// Resolves when the time limit of a command that was asked to end is over.
    pub async fn timed_out(&self) -> NotEnded {
        match self.asked {
            Some((signal, at)) => {
                sleep_until(at + KILL_AFTER).await;
                NotEnded(signal)
            }
            None => pending().await,
        }
    }
}

/// Stops this program, as Ctrl-Z does by default.
pub fn stop_ourselves() {
    // Can't fail: the process exists.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Returns the exit code that shells give to a program ended by `signal`.
pub fn exit_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// A listener for signals. Leaves those alone that were ignored when this program started (a hangup
/// under `nohup`, an interrupt under a shell's `&`); the others lose their default effect.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Listens for the signals that end a program.
    pub fn terminating() -> Result<Self> {
        let mut signals = Self(Vec::new());
        signals.listen_for(&TERMINATING)?;
        Ok(signals)
    }

    /// Listens for the other signals that are forwarded to a command, too.
    pub fn add_forwarded(&mut self) -> Result<()> {
        self.listen_for(&FORWARDED)
    }

    fn listen_for(&mut self, signals: &[Signal]) -> Result<()> {
        let ignored = ignored();
        for &signal in signals {
            // Bit 0 is signal 1.
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                let kind = SignalKind::from_raw(signal.as_raw());
                let listener = unix::signal(kind).context("can't listen for signals")?;
                self.0.push((signal, listener));
            }
        }
        Ok(())
    }

    /// Waits for the next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let came = |(signal, listener): &mut (Signal, unix::Signal)| {
                matches!(listener.poll_recv(context), Poll::Ready(Some(()))).then_some(*signal)
            };
            match self.0.iter_mut().find_map(came) {
                Some(signal) => Poll::Ready(signal),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Runs `work` until a signal comes. The signal drops it and all its VMs: dropping a handle
    /// kills its VM.
    ///
    /// # Errors
    /// [`Interrupted`], or that of the work.
    pub async fn until_first<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            signal = self.next() => Err(Interrupted(signal).into()),
        }
    }
}

/// Starts listening; the returned future resolves at the first signal.
pub fn first() -> Result<impl Future<Output = Interrupted>> {
    let mut signals = Signals::terminating()?;
    Ok(async move { Interrupted(signals.next().await) })
}

/// Does the same as [`Signals::until_first`], for work that has no other use for signals.
///
/// # Errors
/// [`Interrupted`], or that of the work.
pub async fn until_first<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Signals::terminating()?.until_first(work).await
}

/// Returns its name, as in kill(1).
fn name(signal: Signal) -> String {
    match signal {
        Signal::INT => "SIGINT".to_owned(),
        Signal::QUIT => "SIGQUIT".to_owned(),
        Signal::TERM => "SIGTERM".to_owned(),
        other => format!("signal {}", other.as_raw()),
    }
}

/// Reads which signals were ignored when this program started, one bit each (proc_pid_status(5)).
fn ignored() -> u64 {
    // Without /proc, assume none: signals are expected to end a program.
    let status = Process::myself().and_then(|process| process.status());
    status.map_or(0, |status| status.sigign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_interrupt_kills_and_what_is_sent_twice_at_once_is_no_second_one() {
        let start = Instant::now();
        let mut forwarding = Forwarding::default();
        assert_eq!(forwarding.receive(Signal::USR1, start), Effect::Forward);
        assert_eq!(forwarding.receive(Signal::HUP, start), Effect::Forward);
        assert_eq!(forwarding.receive(Signal::TERM, start), Effect::Forward);
        let later = start + Duration::from_secs(1);
        assert_eq!(forwarding.receive(Signal::TERM, later), Effect::Forward);
        assert_eq!(
            forwarding.receive(Signal::INT, later),
            Effect::Kill(Signal::TERM)
        );

        let mut forwarding = Forwarding::default();
        assert_eq!(forwarding.receive(Signal::INT, start), Effect::Forward);
        assert_eq!(forwarding.receive(Signal::INT, start), Effect::Forward);
        assert_eq!(
            forwarding.receive(Signal::INT, start + DUPLICATE_WINDOW),
            Effect::Kill(Signal::INT)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_has_its_time_from_the_first_signal_that_asked_it_to_end() {
        let mut forwarding = Forwarding::default();
        forwarding.receive(Signal::HUP, Instant::now());
        let over = tokio::time::timeout(2 * KILL_AFTER, forwarding.timed_out()).await;
        assert!(over.is_err(), "a hang up may mean anything");
        let start = Instant::now();
        forwarding.receive(Signal::QUIT, start);
        forwarding.receive(Signal::TERM, start + Duration::from_secs(5));
        assert_eq!(forwarding.timed_out().await, NotEnded(Signal::QUIT));
        assert_eq!(start.elapsed(), KILL_AFTER);
    }
}
