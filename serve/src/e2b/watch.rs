//! Watches over directories: the calls `WatchDir`, whose client listens, and `CreateWatcher`,
//! `GetWatcherEvents` and `RemoveWatcher`, whose client asks.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use ironclaw_orchestrator::vm::{FileEvent, FileEventKind, FileKind, FileWatch, VmClient};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, sleep_until};

use super::access::Entered;
use super::entries;
use super::envelope;
use super::failure::{Code, RpcFailure};
use super::rpc;
use crate::file_watch::{self, WatchError, Watched};
use crate::watchers::Wanted;

/// Timeout of a guest to tell what happened until it was asked.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    path: String,
    recursive: bool,
    include_entry: bool,
    allow_network_mounts: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Selected {
    watcher_id: String,
}

/// Begins to watch a directory.
async fn open(entered: &Entered, message: &Bytes) -> Result<(FileWatch, Wanted), RpcFailure> {
    let asked: Asked = rpc::read(message)?;
    let user = entered.user().await?;
    let path = rpc::path(entered, &user, &asked.path).await?;
    let files = entered.live.vm.files().as_user(&user);
    if files.metadata(&path).await?.kind != FileKind::Directory {
        let text = format!("path is not a directory: {path}");
        return Err(RpcFailure::invalid(text));
    }
    let watched = Watched {
        path,
        user,
        recursive: asked.recursive,
        allow_network_mounts: asked.allow_network_mounts,
    };
    let watch = file_watch::open(&entered.live.vm, &watched).await?;
    let wanted = Wanted {
        root: watched.path.into(),
        user: watched.user,
        with_entries: asked.include_entry,
    };
    Ok((watch, wanted))
}

impl From<WatchError> for RpcFailure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::OnNetwork(_) => Self::invalid(error.to_string()),
            WatchError::Guest(error) => error.into(),
        }
    }
}

/// The failure of a watch that could not keep up.
fn missed() -> RpcFailure {
    RpcFailure::new(
        Code::ResourceExhausted,
        "more happened than could be told: list the directory, and watch it again",
    )
}

/// Writes an event, in the words of E2B: a rename within the directory is that of the old name, and
/// makes a new one.
async fn messages(
    vm: &VmClient,
    wanted: &Wanted,
    event: &FileEvent,
) -> Result<Vec<Value>, RpcFailure> {
    let told = match event.kind {
        FileEventKind::Created => vec![("CREATE", &event.path)],
        FileEventKind::Modified => vec![("WRITE", &event.path)],
        FileEventKind::Attributes => vec![("CHMOD", &event.path)],
        FileEventKind::Removed => vec![("REMOVE", &event.path)],
        FileEventKind::Renamed => {
            let from = event.from.as_ref().map(|from| ("RENAME", from));
            from.into_iter().chain([("CREATE", &event.path)]).collect()
        }
        FileEventKind::Overflow => return Err(missed()),
        _ => Vec::new(),
    };
    let mut messages = Vec::new();
    for (kind, path) in told {
        let name = match path.strip_prefix(&wanted.root) {
            Ok(name) if name.as_os_str().is_empty() => ".".into(),
            Ok(name) => name.to_string_lossy(),
            Err(_) => path.to_string_lossy(),
        };
        let mut message = json!({ "name": name, "type": format!("EVENT_TYPE_{kind}") });
        if wanted.with_entries && matches!(kind, "CREATE" | "WRITE" | "CHMOD") {
            let files = vm.files().as_user(&wanted.user);
            // It may be gone again.
            if let Ok(info) = files.symlink_metadata(path).await {
                message["entry"] = entries::entry(&files, &info).await;
            }
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Creates a watch to be asked.
pub(super) async fn create(entered: &Entered, message: &Bytes) -> Result<Value, RpcFailure> {
    let (watch, wanted) = open(entered, message).await?;
    let id = entered.live.watchers.add(watch, wanted);
    Ok(json!({ "watcherId": id }))
}

/// Returns what happened since the last question.
pub(super) async fn events(entered: &Entered, message: &Bytes) -> Result<Value, RpcFailure> {
    let Selected { watcher_id } = rpc::read(message)?;
    let found = entered.live.watchers.find(&watcher_id);
    let watcher = found.ok_or_else(|| none(&watcher_id))?;
    let mut watch = watcher.watch.lock().await;
    // A guest tells what happened before it answers.
    entered.live.vm.ping(CATCH_UP_TIMEOUT).await?;
    let mut all = Vec::new();
    while let Some(event) = watch.next().now_or_never() {
        let Some(event) = event? else {
            break;
        };
        all.extend(messages(&entered.live.vm, &watcher.wanted, &event).await?);
    }
    Ok(match all.is_empty() {
        true => json!({}),
        false => json!({ "events": all }),
    })
}

/// Ends a watch that was asked.
pub(super) fn remove(entered: &Entered, message: &Bytes) -> Result<Value, RpcFailure> {
    let Selected { watcher_id } = rpc::read(message)?;
    match entered.live.watchers.remove(&watcher_id) {
        true => Ok(json!({})),
        false => Err(none(&watcher_id)),
    }
}

fn none(id: &str) -> RpcFailure {
    RpcFailure::not_found(format!("watcher with id {id} not found"))
}

/// Answers with what happens, as a stream of messages.
pub(super) async fn stream(
    entered: &Entered,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Response, RpcFailure> {
    let limit = rpc::time_limit(headers)?;
    let (watch, wanted) = open(entered, message).await?;
    let state = Telling {
        vm: entered.live.vm.clone(),
        watch,
        wanted,
        ping: rpc::ping(headers),
        until: limit.and_then(|limit| Instant::now().checked_add(limit)),
        is_begun: false,
        is_over: false,
    };
    let messages = stream::unfold(state, |mut state| async move {
        let message = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(message), state))
    });
    Ok(rpc::stream(Body::from_stream(messages)))
}

struct Telling {
    vm: VmClient,
    watch: FileWatch,
    wanted: Wanted,
    ping: Interval,
    until: Option<Instant>,
    is_begun: bool,
    is_over: bool,
}

impl Telling {
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.is_begun, true) {
            return Some(envelope::message(&json!({ "start": {} })));
        }
        while !self.is_over {
            let late = async {
                match self.until {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                biased;
                event = self.watch.next() => event,
                () = late => {
                    let text = "the call's time is over";
                    return Some(self.end(Some(&RpcFailure::new(Code::DeadlineExceeded, text))));
                }
                _ = self.ping.tick() => {
                    return Some(envelope::message(&json!({ "keepalive": {} })));
                }
            };
            let messages = match told {
                Ok(Some(event)) => messages(&self.vm, &self.wanted, &event).await,
                // What was watched is gone.
                Ok(None) => return Some(self.end(None)),
                Err(error) => Err(error.into()),
            };
            match messages {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    self.ping.reset();
                    let wrap = |event: Value| envelope::message(&json!({ "filesystem": event }));
                    let all: Vec<_> = messages.into_iter().map(wrap).collect();
                    return Some(all.concat().into());
                }
                Err(failure) => return Some(self.end(Some(&failure))),
            }
        }
        None
    }

    fn end(&mut self, failure: Option<&RpcFailure>) -> Bytes {
        self.is_over = true;
        envelope::end(failure)
    }
}
