//! The daemon as its clients see it: there, or away for a moment.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_client::{Client, ClientError, Method, Page};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::ledger::State;
use crate::soak::fault::Episode;

/// Limit of waiting for the answers to requests that were on their way when the daemon was ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The daemon, and the requests on their way.
#[derive(Debug)]
pub(super) struct Up {
    client: watch::Sender<Option<Client>>,
    asking: watch::Sender<usize>,
    episodes: Mutex<Episodes>,
}

/// The faults that explain failures of requests.
#[derive(Debug, Default, Clone, Copy)]
struct Episodes {
    away: Episode,
    full: Episode,
    locked: Episode,
    killed: Episode,
}

/// A fault that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// The daemon is away.
    Away,
    /// The disk is full.
    Full,
    /// The daemon's database is locked.
    Locked,
}

/// A request on its way. Drop ends it.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    up: &'a Up,
    pub(super) client: Client,
    begun: Instant,
}

impl Up {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client: watch::Sender::new(Some(client)),
            asking: watch::Sender::new(0),
            episodes: Mutex::default(),
        }
    }

    /// Begins a request when the daemon is there.
    pub(super) async fn ask(&self) -> Asking<'_> {
        let mut there = self.client.subscribe();
        loop {
            let client = there.borrow_and_update().clone();
            if let Some(client) = client {
                self.asking.send_modify(|count| *count += 1);
                return Asking {
                    up: self,
                    client,
                    begun: Instant::now(),
                };
            }
            // Its sender is there as long as this.
            let _ = there.changed().await;
        }
    }

    /// Lets no request begin any more.
    pub(super) fn goes_away(&self) {
        self.begins(Lasting::Away);
        self.client.send_replace(None);
    }

    /// Waits until no request is on its way.
    pub(super) async fn is_quiet(&self) -> Result<()> {
        let mut asking = self.asking.subscribe();
        let quiet = timeout(ANSWER_TIMEOUT, asking.wait_for(|count| *count == 0)).await;
        let quiet = quiet.context("a request to a daemon that ended is not over")?;
        quiet.map(drop).context("no request is counted any more")
    }

    /// Lets requests begin again.
    pub(super) fn is_back(&self, client: Client) {
        self.ends(Lasting::Away);
        self.client.send_replace(Some(client));
    }

    pub(super) fn begins(&self, what: Lasting) {
        *self.episodes().of(what) = Episode::Lasts;
    }

    pub(super) fn ends(&self, what: Lasting) {
        *self.episodes().of(what) = Episode::Over(Instant::now());
    }

    pub(super) fn vmm_was_killed(&self) {
        self.episodes().killed = Episode::Over(Instant::now());
    }

    fn episodes(&self) -> MutexGuard<'_, Episodes> {
        self.episodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Episodes {
    fn of(&mut self, what: Lasting) -> &mut Episode {
        match what {
            Lasting::Away => &mut self.away,
            Lasting::Full => &mut self.full,
            Lasting::Locked => &mut self.locked,
        }
    }

    /// Returns whether a fault explains that a request begun at `then` fails so at `now`.
    fn explain(self, error: &ClientError, then: Instant, now: Instant) -> bool {
        let explained = |episode: Episode| episode.explains(then, now);
        match error {
            ClientError::NoDaemon { .. } | ClientError::Lost { .. } => explained(self.away),
            ClientError::Refused(refusal) => match &*refusal.kind {
                "draining" => explained(self.away),
                "database_locked" => explained(self.locked),
                "host_full" => explained(self.full),
                // A VMM is lost, as it may be on a full disk: a tmpfs needs room even for a hole that is read.
                "internal" | "guest_lost" | "guest_silent" => {
                    explained(self.killed) || explained(self.full) || explained(self.away)
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl Asking<'_> {
    /// Returns whether a fault explains that this request fails now.
    pub(super) fn is_explained(&self, error: &ClientError) -> bool {
        let episodes = *self.up.episodes();
        episodes.explain(error, self.begun, Instant::now())
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.up.asking.send_modify(|count| *count -= 1);
    }
}

/// Lists all sandboxes of a daemon.
pub(super) async fn sandboxes(client: &Client) -> Result<BTreeMap<String, State>> {
    let mut all = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/sandboxes?limit=1000{after}");
        let page: Page = client.call(Method::GET, &path, None::<&()>).await?;
        for sandbox in page.sandboxes {
            let state = match &*sandbox.state {
                "paused" => State::Paused,
                _ => State::Running,
            };
            all.insert(sandbox.id, state);
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironclaw_client::{Address, Refusal};

    fn refused(kind: &str) -> ClientError {
        let text = String::new;
        ClientError::Refused(Refusal {
            title: text(),
            detail: text(),
            kind: kind.to_owned(),
            status: 500,
        })
    }

    #[tokio::test]
    async fn faults_explain_their_own_consequences_for_a_while() {
        let client = Client::new(Address::Tcp("127.0.0.1:1".to_owned()), None, None).unwrap();
        let up = Up::new(client.clone());
        let asking = up.ask().await;
        let locked = refused("database_locked");
        assert!(!asking.is_explained(&locked));
        up.begins(Lasting::Locked);
        assert!(asking.is_explained(&locked));
        assert!(!asking.is_explained(&refused("host_full")));
        assert!(!asking.is_explained(&refused("not_found")));
        up.ends(Lasting::Locked);
        assert!(asking.is_explained(&locked));
        drop(asking);
        assert!(!up.ask().await.is_explained(&locked), "it began later");
    }

    #[tokio::test]
    async fn requests_wait_while_the_daemon_is_away_and_it_waits_for_those_on_their_way() {
        let client = Client::new(Address::Tcp("127.0.0.1:1".to_owned()), None, None).unwrap();
        let up = Up::new(client.clone());
        let asking = up.ask().await;
        up.goes_away();
        let (mut next, mut quiet) = (Box::pin(up.ask()), Box::pin(up.is_quiet()));
        assert!(is_pending(&mut next) && is_pending(&mut quiet));
        drop(asking);
        quiet.await.unwrap();
        assert!(is_pending(&mut next));
        up.is_back(client);
        next.await;
    }

    /// Polls once; returns whether it is pending.
    fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context).is_pending()
    }
}
