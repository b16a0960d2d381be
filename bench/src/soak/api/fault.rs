//! Faults of a daemon: its end in order and at once, killed VMMs, a locked database, a full disk.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use ironclaw_console::output::blocking;
use procfs::process::Process;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use tokio::time::sleep;

use super::clients::Shift;
use super::ledger::End;
use super::up::{Lasting, sandboxes};
use crate::daemon::{Daemon, Start};
use crate::soak::children::children;
use crate::soak::fault::{kill_child, vmms_of};
use crate::soak::home::Disk;
use crate::soak::tally::Blame;

/// Time for which the database is locked or the disk full, in milliseconds.
const EPISODE_MILLIS: std::ops::Range<u64> = 100..2000;
/// Limit of waiting for the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGTERM, as at an update, and a start.
    Drain,
    /// SIGKILL, and a start.
    Kill,
    /// Kills any VMM.
    Vmm,
    /// Another process holds the database's lock.
    Locked,
    /// The disk is full for a while.
    Full,
}

impl Fault {
    pub(super) const ALL: [Self; 5] =
        [Self::Drain, Self::Kill, Self::Vmm, Self::Locked, Self::Full];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Drain => "daemon restarted",
            Self::Kill => "daemon killed",
            Self::Vmm => "any VMM killed",
            Self::Locked => "database locked",
            Self::Full => "disk full",
        }
    }
}

/// The daemon that faults happen to, and how it is started.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) start: &'a Start,
    pub(super) key: &'a str,
    pub(super) database: &'a Path,
    pub(super) disk: Option<&'a Disk>,
}

impl Target<'_> {
    /// Injects a fault; returns the daemon that is there then, and whether the fault was possible.
    pub(super) async fn inject(
        &self,
        fault: Fault,
        daemon: Daemon,
        shift: &Shift,
        rng: &mut Rng,
    ) -> Result<(Daemon, bool)> {
        match fault {
            Fault::Drain => Ok((self.restart(daemon, End::Drained, shift).await?, true)),
            Fault::Kill => Ok((self.restart(daemon, End::Killed, shift).await?, true)),
            Fault::Vmm => {
                let process = daemon.process()?;
                let victim = rng.choice(vmms_of(&process));
                let owner = daemon.pid()?.try_into()?;
                let is_killed = victim.is_some_and(|victim| {
                    // Before: its client learns at once.
                    shift.ledger().victim();
                    shift.up.vmm_was_killed();
                    kill_child(owner, victim)
                });
                Ok((daemon, is_killed))
            }
            Fault::Locked => {
                let path = self.database.to_owned();
                shift.up.begins(Lasting::Locked);
                let lock = blocking(move || locked(&path)).await?;
                sleep(Duration::from_millis(rng.u64(EPISODE_MILLIS))).await;
                drop(lock);
                shift.up.ends(Lasting::Locked);
                Ok((daemon, true))
            }
            Fault::Full => {
                let Some(disk) = self.disk else {
                    return Ok((daemon, false));
                };
                shift.up.begins(Lasting::Full);
                disk.fill().context("can't fill the soak's disk")?;
                sleep(Duration::from_millis(rng.u64(EPISODE_MILLIS))).await;
                disk.free().context("can't make room on the soak's disk")?;
                shift.up.ends(Lasting::Full);
                // A tmpfs needs room even for a hole that a VMM reads through a mapping.
                shift.ledger().doubt_running();
                Ok((daemon, true))
            }
        }
    }

    /// Ends the daemon while requests are on their way, starts another one, and compares what that has.
    async fn restart(&self, daemon: Daemon, end: End, shift: &Shift) -> Result<Daemon> {
        shift.up.goes_away();
        match end {
            End::Drained => daemon.end().await?,
            End::Killed => drop(daemon.end_by(Signal::KILL).await?),
        }
        shift.up.is_quiet().await?;
        let next = self.start.start(self.key).await;
        let next = next.context("the daemon does not start any more")?;
        reap(next.pid()?)?;
        let found = sandboxes(next.client()).await?;
        let wrong = shift.ledger().restarted(end, &found);
        for text in wrong {
            shift.tally().failed(Blame::Unexpected, "restart", text);
        }
        shift.up.is_back(next.client().clone());
        Ok(next)
    }
}

/// Holds the lock of a database until it is dropped.
fn locked(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).context("can't open the daemon's database")?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    begun.context("can't lock the daemon's database")?;
    Ok(connection)
}

/// Reaps what daemons that are gone have left to this process: VMMs, which a daemon's end kills.
pub(super) fn reap(daemon: i32) -> Result<()> {
    for pid in children()? {
        let pid = i32::try_from(pid)?;
        let is_dead = |stat: procfs::process::Stat| stat.state == 'Z';
        let stat = Process::new(pid).and_then(|process| process.stat());
        if pid != daemon && stat.is_ok_and(is_dead) {
            let number = Pid::from_raw(pid).context("a process without a number")?;
            waitpid(Some(number), WaitOptions::NOHANG)?;
        }
    }
    Ok(())
}

/// Takes over the processes that a killed daemon leaves, so that they can be counted.
pub(super) fn adopt() -> Result<()> {
    let own = rustix::process::getpid();
    let adopted = rustix::process::set_child_subreaper(Some(own));
    adopted.context("can't take over the processes of a killed daemon")?;
    let is_set = rustix::process::child_subreaper()?.is_some();
    ensure!(is_set, "the processes of a killed daemon go elsewhere");
    Ok(())
}
