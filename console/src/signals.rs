//! Signals to this program: most end it; while a command runs in a guest they are for the command.

use std::future::{Future, pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result};
use procfs::process::Process;
use rustix::process::{Signal, getpid, kill_process};
use thiserror::Error;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep_until};

/// Those whose default is to end a program, and that one may catch to end in order.
const ENDING: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
];

/// What a command may want to know besides, and what does nothing to this program or stops it.
const TELLING: [Signal; 3] = [Signal::CONT, Signal::TSTP, Signal::WINCH];

/// A signal asked the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("ended by a signal")]
pub struct Interrupted(pub Signal);

impl Interrupted {
    /// As shells give it: 128 and the signal's number.
    pub fn exit_code(self) -> u8 {
        exit_code(self.0)
    }
}

/// A command was asked to end by a signal and did not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the command did not end within {KILL_AFTER:?} of {}, and was killed", name(self.0))]
pub struct NotEnded(pub Signal);

/// How long a command has to end once it was asked to.
pub const KILL_AFTER: Duration = Duration::from_secs(10);

/// Whoever sends a signal to a process and to its group, as timeout(1) does, sends it twice: within
/// this time it is one. People press Ctrl-C less often.
const SAME: Duration = Duration::from_millis(50);

/// What becomes of the signals that come while a command runs.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// The first signal that asked the command to end, and when it came.
    asked: Option<(Signal, Instant)>,
}

/// What to do with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The command gets it.
    Forward,
    /// The command was asked to end before by this one, and is not waited for any longer.
    Kill(Signal),
}

impl Forwarding {
    /// `signal` comes. One that asks for the end starts the time that a command has; an interrupt
    /// after that is the last word of somebody who waits.
    pub fn comes(&mut self, signal: Signal, now: Instant) -> Effect {
        match self.asked {
            Some((first, at)) if signal == Signal::INT && now >= at + SAME => Effect::Kill(first),
            None if [Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal) => {
                self.asked = Some((signal, now));
                Effect::Forward
            }
            _ => Effect::Forward,
        }
    }

    /// Resolves when a command that was asked to end has had its time.
    pub async fn over(&self) -> NotEnded {
        match self.asked {
            Some((signal, at)) => {
                sleep_until(at + KILL_AFTER).await;
                NotEnded(signal)
            }
            None => pending().await,
        }
    }
}

/// Stops this program until somebody lets it go on, as Ctrl-Z does to one that has no use for it.
pub fn stop_ourselves() {
    // It can't fail: the process is there.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// What a shell shows for a program that was ended by `signal`.
pub fn exit_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// The signals that were not ignored when this program was started, as `nohup` has it ignore a hang
/// up and a shell's `&` an interrupt: from now on they do nothing but come out of here.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Listens for those that end a program.
    pub fn that_end_us() -> Result<Self> {
        let mut signals = Self(Vec::new());
        signals.listen_for(&ENDING)?;
        Ok(signals)
    }

    /// Listens for those, too, that a command is told of besides.
    pub fn add_those_for_a_command(&mut self) -> Result<()> {
        self.listen_for(&TELLING)
    }

    fn listen_for(&mut self, signals: &[Signal]) -> Result<()> {
        let ignored = ignored();
        for &signal in signals {
            // The lowest bit is signal 1.
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                let kind = SignalKind::from_raw(signal.as_raw());
                let listener = unix::signal(kind).context("can't listen for signals")?;
                self.0.push((signal, listener));
            }
        }
        Ok(())
    }

    /// The next one that comes. Cancel-safe.
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

    /// Does `work` until a signal comes, which drops it, and with it every VM: a handle kills its VM
    /// when dropped.
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

/// Catches the signals from now on; resolves at the first.
pub fn first() -> Result<impl Future<Output = Interrupted>> {
    let mut signals = Signals::that_end_us()?;
    Ok(async move { Interrupted(signals.next().await) })
}

/// As [`Signals::until_first`], for work that has no other use for signals.
///
/// # Errors
/// [`Interrupted`], or that of the work.
pub async fn until_first<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Signals::that_end_us()?.until_first(work).await
}

/// As kill(1) has it.
fn name(signal: Signal) -> String {
    match signal {
        Signal::INT => "SIGINT".to_owned(),
        Signal::QUIT => "SIGQUIT".to_owned(),
        Signal::TERM => "SIGTERM".to_owned(),
        other => format!("signal {}", other.as_raw()),
    }
}

/// The signals that this program was started with ignored, a bit for each (proc_pid_status(5)).
fn ignored() -> u64 {
    // Without /proc there is nobody to ask, and to end by a signal is what is expected.
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
        assert_eq!(forwarding.comes(Signal::USR1, start), Effect::Forward);
        assert_eq!(forwarding.comes(Signal::HUP, start), Effect::Forward);
        assert_eq!(forwarding.comes(Signal::TERM, start), Effect::Forward);
        let later = start + Duration::from_secs(1);
        assert_eq!(forwarding.comes(Signal::TERM, later), Effect::Forward);
        assert_eq!(
            forwarding.comes(Signal::INT, later),
            Effect::Kill(Signal::TERM)
        );

        let mut forwarding = Forwarding::default();
        assert_eq!(forwarding.comes(Signal::INT, start), Effect::Forward);
        assert_eq!(forwarding.comes(Signal::INT, start), Effect::Forward);
        assert_eq!(
            forwarding.comes(Signal::INT, start + SAME),
            Effect::Kill(Signal::INT)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_has_its_time_from_the_first_signal_that_asked_it_to_end() {
        let mut forwarding = Forwarding::default();
        forwarding.comes(Signal::HUP, Instant::now());
        let over = tokio::time::timeout(2 * KILL_AFTER, forwarding.over()).await;
        assert!(over.is_err(), "a hang up may mean anything");
        let start = Instant::now();
        forwarding.comes(Signal::QUIT, start);
        forwarding.comes(Signal::TERM, start + Duration::from_secs(5));
        assert_eq!(forwarding.over().await, NotEnded(Signal::QUIT));
        assert_eq!(start.elapsed(), KILL_AFTER);
    }
}
