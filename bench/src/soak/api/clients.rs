//! The clients of a daemon: each asks for one thing after another, and compares.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http_body_util::BodyExt as _;
use ironclaw_client::{Client, ClientError, Done, Exec, Method, NewSandbox, Sandbox};
use ironclaw_console::causes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::ledger::{Ledger, State, Taken};
use super::up::Up;
use crate::soak::stop::Stop;
use crate::soak::tally::{Blame, Tally};
use crate::soak::work::Until;

/// Timeout of any request.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Sandboxes for each client.
const SANDBOXES: usize = 3;
/// Lifetime of a sandbox that is to last, in seconds: the longest one.
const LASTING: u64 = 24 * 60 * 60;
/// Lifetime of one that is not.
const BRIEF: u64 = 2;
/// Copies at a time.
const COPIES: usize = 2;
/// The time after which a client goes away without an answer.
const PATIENCE: Duration = Duration::from_millis(50);
/// The file of a sandbox that tells whose content it has.
const FILE: &str = "/tmp/soak";

/// What all clients share.
#[derive(Debug)]
pub(super) struct Shift {
    pub(super) up: Up,
    pub(super) template: String,
    pub(super) until: Until,
    pub(super) stop: Stop,
    most: usize,
    begun: Instant,
    created: AtomicU64,
    ledger: Mutex<Ledger>,
    tally: Mutex<Tally>,
    done: Mutex<BTreeMap<&'static str, u64>>,
}

/// Something to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Create,
    Exec,
    Read,
    Pause,
    Resume,
    Fork,
    /// A pause and a command at the same time.
    Race,
    /// Go away before the answer comes.
    Vanish,
    Delete,
}

/// The reason why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Mishap {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It ended with a wrong result.
    #[error("{0}")]
    Wrong(String),
}

/// An answer to a fork: a copy, or the reason why there is none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Copied {
    Sandbox(Sandbox),
    Problem(ironclaw_client::Refusal),
}

impl Deed {
    /// Chooses one; a client makes sandboxes as long as there are too few.
    fn choose(rng: &mut Rng) -> Self {
        const WEIGHTS: [(Deed, u32); 9] = [
            (Deed::Create, 30),
            (Deed::Exec, 20),
            (Deed::Read, 8),
            (Deed::Pause, 10),
            (Deed::Resume, 12),
            (Deed::Fork, 5),
            (Deed::Race, 3),
            (Deed::Vanish, 3),
            (Deed::Delete, 9),
        ];
        let all: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.u32(..all);
        for (deed, weight) in WEIGHTS {
            if at < weight {
                return deed;
            }
            at -= weight;
        }
        Self::Create
    }

    /// The state of the sandbox that it takes; any without.
    fn state(self) -> Option<State> {
        match self {
            Self::Resume => Some(State::Paused),
            Self::Delete => None,
            _ => Some(State::Running),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Exec => "exec",
            Self::Read => "read",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Fork => "fork",
            Self::Race => "pause and exec at once",
            Self::Vanish => "go away",
            Self::Delete => "delete",
        }
    }
}

impl Shift {
    pub(super) fn new(up: Up, template: String, clients: u16, until: Until, stop: Stop) -> Self {
        Self {
            up,
            template,
            until,
            stop,
            most: usize::from(clients) * SANDBOXES,
            begun: Instant::now(),
            created: AtomicU64::new(0),
            ledger: Mutex::default(),
            tally: Mutex::default(),
            done: Mutex::default(),
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how often each request did what it should.
    pub(super) fn done(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns the number of sandboxes that were asked for.
    pub(super) fn made(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// Returns the part that is over, from 0 to 1.
    pub(super) fn progress(&self) -> f64 {
        self.until.progress(self.begun, self.made())
    }

    /// Returns whether it is time to stop.
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_asked() || self.progress() >= 1.0
    }

    fn succeeded(&self, deed: Deed) {
        *self.done().entry(deed.name()).or_default() += 1;
    }
}

/// Asks until it is time to stop.
pub(super) async fn work(shift: Arc<Shift>, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while !shift.is_over() {
        let deed = Deed::choose(&mut rng);
        if deed == Deed::Create {
            if shift.ledger().len() < shift.most {
                create(&shift, &mut rng).await;
                continue;
            }
            // Room for another.
            perform(&shift, Deed::Delete, &mut rng).await;
            continue;
        }
        perform(&shift, deed, &mut rng).await;
    }
}

async fn create(shift: &Shift, rng: &mut Rng) {
    let lasts = rng.u8(..10) > 0;
    let new = NewSandbox {
        template: shift.template.clone(),
        lifetime_seconds: Some(if lasts { LASTING } else { BRIEF }),
        on_deadline: if rng.bool() { "kill" } else { "pause" },
        ..NewSandbox::default()
    };
    let asking = shift.up.ask().await;
    let client = &asking.client;
    let made = async {
        let made: Sandbox = client
            .call(Method::POST, "/v1/sandboxes", Some(&new))
            .await?;
        match write(client, &made.id).await {
            Ok(()) => Ok((made.id.clone(), Some(made.id))),
            // The bare-metal guest can't.
            Err(error) if refused_as(&error, &["unsupported"]) => Ok((made.id, None)),
            Err(error) => {
                // Of no use without its mark.
                let path = format!("/v1/sandboxes/{}", made.id);
                client.perform(Method::DELETE, &path).await?;
                Err(error)
            }
        }
    };
    shift.created.fetch_add(1, Ordering::Relaxed);
    match within_limit(made).await {
        Ok((id, mark)) => {
            shift.succeeded(Deed::Create);
            shift.ledger().made(id, mark, lasts);
        }
        Err(mishap) => {
            // One that is brief may be gone before its file is written.
            let is_explained = !lasts || is_explained(&asking, &mishap);
            count(shift, Deed::Create, is_explained, &mishap);
        }
    }
}

/// Asks for something of a sandbox, if there is one for it.
async fn perform(shift: &Shift, deed: Deed, rng: &mut Rng) {
    let asking = shift.up.ask().await;
    let taken = shift.ledger().take(deed.state(), rng);
    let Some(taken) = taken else {
        drop(asking);
        let has_room = shift.ledger().len() < shift.most;
        match has_room {
            true => create(shift, rng).await,
            // There is one for another request.
            false => tokio::task::yield_now().await,
        }
        return;
    };
    match within_limit(ask(shift, &asking.client, deed, &taken)).await {
        Ok(after) => {
            shift.succeeded(deed);
            let mut ledger = shift.ledger();
            match after {
                After::Known(state) => ledger.put_back(&taken.id, state),
                After::Doubtful => ledger.doubt(&taken.id),
                After::Gone => ledger.forget(&taken.id),
            }
        }
        Err(mishap) => {
            let is_gone = refused_as(&mishap, &["not_found"]);
            let may_be = !taken.is_sure
                && refused_as(&mishap, &["not_found", "paused", "conflict", "guest_lost"]);
            let is_missed = || {
                refused_as(&mishap, &["not_found", "guest_lost"]) && shift.ledger().is_explained()
            };
            let is_explained = may_be || is_explained(&asking, &mishap) || is_missed();
            count(shift, deed, is_explained, &mishap);
            match is_gone {
                true => shift.ledger().forget(&taken.id),
                false => shift.ledger().doubt(&taken.id),
            }
        }
    }
}

/// What is known of a sandbox afterwards.
enum After {
    Known(State),
    Doubtful,
    Gone,
}

async fn ask(shift: &Shift, client: &Client, deed: Deed, taken: &Taken) -> Result<After, Mishap> {
    let path = |what: &str| format!("/v1/sandboxes/{}{what}", taken.id);
    let body = |lifetime: u64| json!({ "lifetime_seconds": lifetime });
    match deed {
        Deed::Create => Ok(After::Doubtful),
        Deed::Exec => {
            exec(client, taken).await?;
            Ok(After::Known(State::Running))
        }
        Deed::Read => {
            let Some(mark) = &taken.mark else {
                exec(client, taken).await?;
                return Ok(After::Known(State::Running));
            };
            let content = format!("{}?path={FILE}", path("/files/content"));
            let answer = client.open(Method::GET, &content, Bytes::new()).await?;
            let content = answer.into_body().collect().await;
            let content = content.map_err(|error| Mishap::Wrong(error.to_string()))?;
            match content.to_bytes() == mark.as_bytes() {
                true => Ok(After::Known(State::Running)),
                false => Err(Mishap::Wrong(
                    "a file has another sandbox's content".to_owned(),
                )),
            }
        }
        Deed::Pause => {
            let _: Value = client
                .call(Method::POST, &path("/pause"), None::<&()>)
                .await?;
            Ok(After::Known(State::Paused))
        }
        Deed::Resume => {
            let body = body(LASTING);
            let _: Value = client
                .call(Method::POST, &path("/resume"), Some(&body))
                .await?;
            exec(client, taken).await?;
            Ok(After::Known(State::Running))
        }
        Deed::Fork => {
            let body = json!({ "count": COPIES, "lifetime_seconds": LASTING });
            let copies: Vec<Copied> = client
                .call(Method::POST, &path("/fork"), Some(&body))
                .await?;
            let mut failed = None;
            for copy in copies {
                match copy {
                    Copied::Sandbox(copy) => {
                        let mark = taken.mark.clone();
                        shift.ledger().made(copy.id, mark, true);
                    }
                    Copied::Problem(problem) => failed = Some(problem),
                }
            }
            match failed {
                None => Ok(After::Known(State::Running)),
                Some(problem) => Err(ClientError::from(problem).into()),
            }
        }
        Deed::Race => {
            let pause = path("/pause");
            let pause = client.call::<Value>(Method::POST, &pause, None::<&()>);
            let (paused, executed) = tokio::join!(pause, exec(client, taken));
            paused?;
            match executed {
                // It was paused before, or meanwhile.
                Err(mishap) if !refused_as(&mishap, &["paused", "guest_lost"]) => Err(mishap),
                _ => Ok(After::Known(State::Paused)),
            }
        }
        Deed::Vanish => {
            let exec = Exec {
                argv: ["sleep", "100"].map(str::to_owned).to_vec(),
                ..Exec::default()
            };
            let path = path("/exec");
            let answer = client.call::<Done>(Method::POST, &path, Some(&exec));
            match timeout(PATIENCE, answer).await {
                Err(_) => Ok(After::Known(State::Running)),
                Ok(answer) => match answer? {
                    Done {
                        exit_code: Some(0), ..
                    } => Ok(After::Known(State::Running)),
                    done => Err(Mishap::Wrong(format!("`sleep` ended so: {done:?}"))),
                },
            }
        }
        Deed::Delete => {
            client.perform(Method::DELETE, &path("")).await?;
            Ok(After::Gone)
        }
    }
}

async fn write(client: &Client, id: &str) -> Result<(), Mishap> {
    let path = format!("/v1/sandboxes/{id}/files/content?path={FILE}");
    let content = Bytes::from(id.to_owned());
    let mut channel = client.connect().await?;
    channel.ask(Method::PUT, &path, content).await?;
    Ok(())
}

async fn exec(client: &Client, taken: &Taken) -> Result<(), Mishap> {
    let exec = Exec {
        argv: vec!["echo".to_owned(), taken.id.clone()],
        ..Exec::default()
    };
    let path = format!("/v1/sandboxes/{}/exec", taken.id);
    let done: Done = client.call(Method::POST, &path, Some(&exec)).await?;
    if done.exit_code == Some(0) && done.stdout.trim_end() == taken.id {
        return Ok(());
    }
    Err(Mishap::Wrong(format!(
        "`echo {}` ended so: {done:?}",
        taken.id
    )))
}

async fn within_limit<T>(asked: impl Future<Output = Result<T, Mishap>>) -> Result<T, Mishap> {
    let late = |_| Mishap::Wrong(format!("there is no answer within {TIMEOUT:?}"));
    timeout(TIMEOUT, asked).await.map_err(late)?
}

fn refused_as(mishap: &Mishap, kinds: &[&str]) -> bool {
    match mishap {
        Mishap::Client(ClientError::Refused(refusal)) => kinds.contains(&&*refusal.kind),
        _ => false,
    }
}

fn is_explained(asking: &super::up::Asking<'_>, mishap: &Mishap) -> bool {
    match mishap {
        Mishap::Client(error) => asking.is_explained(error),
        Mishap::Wrong(_) => false,
    }
}

fn count(shift: &Shift, deed: Deed, is_explained: bool, mishap: &Mishap) {
    let blame = match is_explained {
        true => Blame::Injected,
        false => Blame::Unexpected,
    };
    shift.tally().failed(blame, deed.name(), causes(mishap));
}
