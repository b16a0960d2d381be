//! What happens to files of a sandbox.

use std::convert::Infallible;
use std::path::Path;

use axum::body::Body as Content;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use ironclaw_orchestrator::vm::{FileEvent, FileEventKind, FileWatch};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Named};
use super::events::{EVENTS, line};
use super::exec::absolute;
use super::files::enter;
use super::problem::Problem;
use crate::file_watch::{self, WatchError, Watched};

/// What is watched.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    /// The absolute path of a file or a directory.
    path: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    user: Option<String>,
    /// Watch the directories below, too, also those that come to be.
    #[serde(default)]
    recursive: bool,
    /// Watch also on a file system of the network or of FUSE, of which not all that happens is told.
    #[serde(default)]
    allow_network_mounts: bool,
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum FileChange {
    /// The first one: what happens from now on is told.
    Start,
    /// It was made, or came from elsewhere.
    Created(ChangedFile),
    /// Its content was written to.
    Modified(ChangedFile),
    /// Who wrote to it has closed it.
    Written(ChangedFile),
    /// Its mode, its owner or another property was changed.
    Attributes(ChangedFile),
    /// It was renamed within what is watched.
    Renamed {
        #[serde(flatten)]
        told: ChangedFile,
        /// The path that it had.
        from: String,
    },
    /// It was removed, or went elsewhere.
    Removed(ChangedFile),
    /// More happened than could be told, since the client was slow, say: look at what is there. What
    /// happens from then on is told again.
    Missed,
    /// The last one: what was watched is gone.
    End,
    /// The last one, if the watch could not go on, as when the sandbox has ended or is paused.
    Lost { problem: Problem },
}

/// What it happened to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedFile {
    /// Its absolute path. A name that is not UTF-8 has U+FFFD in place of invalid bytes.
    path: String,
    is_directory: bool,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl FileChange {
    /// Returns `None` for what this API has no word for.
    fn of(event: FileEvent) -> Option<Self> {
        let told = ChangedFile {
            path: text(&event.path),
            is_directory: event.is_directory,
        };
        Some(match event.kind {
            FileEventKind::Created => Self::Created(told),
            FileEventKind::Modified => Self::Modified(told),
            FileEventKind::Written => Self::Written(told),
            FileEventKind::Attributes => Self::Attributes(told),
            FileEventKind::Renamed => Self::Renamed {
                told,
                from: event.from.as_deref().map(text).unwrap_or_default(),
            },
            FileEventKind::Removed => Self::Removed(told),
            FileEventKind::Overflow => Self::Missed,
            _ => return None,
        })
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::End | Self::Lost { .. })
    }
}

impl From<WatchError> for Problem {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::OnNetwork(_) => Self::invalid(error.to_string()),
            WatchError::Guest(error) => error.into(),
        }
    }
}

/// Watches a file or a directory, and tells what happens, a JSON object a line, until the client goes away.
///
/// There are 64 watches of a sandbox at a time. A client that does not take what is told misses some, and is told
/// so. A watch ends when what is watched is gone, and when its sandbox ends or is paused.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/files/watch", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Watch),
    responses(
        (status = 200, body = FileChange, content_type = "application/x-ndjson"),
        Problem,
    )
)]
pub(super) async fn watch(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(asked): Asked<Watch>,
) -> Result<Response, Problem> {
    let Watch {
        path,
        user,
        recursive,
        allow_network_mounts,
    } = asked;
    let path = absolute(&path)?.to_owned();
    let (live, user) = enter(&api, &id, user).await?;
    let watched = Watched {
        path,
        user,
        recursive,
        allow_network_mounts,
    };
    let watch = file_watch::open(&live.vm, &watched).await?;
    let start = (Some(FileChange::Start), Some(watch));
    let lines = stream::unfold(start, |(begun, watch)| async {
        let mut watch = watch?;
        let happened = match begun {
            Some(begun) => begun,
            None => next(&mut watch).await,
        };
        let watch = (!happened.is_last()).then_some(watch);
        Some((Ok::<_, Infallible>(line(&happened)), (None, watch)))
    });
    let content = Content::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, EVENTS)], content).into_response())
}

async fn next(watch: &mut FileWatch) -> FileChange {
    loop {
        match watch.next().await {
            Ok(Some(event)) => {
                if let Some(happened) = FileChange::of(event) {
                    return happened;
                }
            }
            Ok(None) => return FileChange::End,
            Err(error) => {
                return FileChange::Lost {
                    problem: error.into(),
                };
            }
        }
    }
}
