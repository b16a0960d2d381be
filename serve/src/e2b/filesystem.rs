//! The service `filesystem.Filesystem`: the files of a sandbox.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ironclaw_orchestrator::vm::{FailureKind, FileKind, Files, GuestError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{Entered, enter};
use super::api::{Api, MAX_BODY};
use super::envelope::{self, Unwrapper};
use super::failure::{Code, RpcFailure};
use super::user_files::UserFiles;
use super::{entries, rpc, watch};

pub(super) async fn call(
    State(api): State<Api>,
    Path(call): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let entered = match enter(&api, &parts.headers).await {
        Ok(entered) => entered,
        Err(refused) => return refused.into_response(),
    };
    if call == "WatchDir" {
        let watched = watch_dir(&entered, &parts.headers, body).await;
        return watched.unwrap_or_else(|failure| rpc::stream(envelope::end(Some(&failure))));
    }
    let answer = async {
        let message = rpc::whole(body).await?;
        answer(&call, &entered, &parts.headers, &message).await
    };
    match answer.await {
        Ok(answer) => Json(answer).into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn watch_dir(
    entered: &Entered,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, RpcFailure> {
    rpc::check_content(headers, rpc::STREAM)?;
    let mut unwrapper = Unwrapper::new(MAX_BODY);
    unwrapper.push(&rpc::whole(body).await?);
    let message = unwrapper.next()?;
    let message = message.ok_or_else(|| RpcFailure::invalid("the request has no message"))?;
    watch::stream(entered, headers, &message).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct At {
    path: String,
    depth: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Move {
    source: String,
    destination: String,
}

async fn answer(
    call: &str,
    entered: &Entered,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Value, RpcFailure> {
    rpc::check_content(headers, rpc::UNARY)?;
    match call {
        "CreateWatcher" => return watch::create(entered, message).await,
        "GetWatcherEvents" => return watch::events(entered, message).await,
        "RemoveWatcher" => return watch::remove(entered, message),
        _ => {}
    }
    let user = entered.user().await?;
    let files = UserFiles::of(entered, &user);
    if call == "Move" {
        let Move {
            source,
            destination,
        } = rpc::read(message)?;
        let source = rpc::path(entered, &user, &source).await?;
        let destination = rpc::path(entered, &user, &destination).await?;
        files.make_parent(&destination).await?;
        files.rename(&source, &destination).await?;
        return entry(&files, &destination).await;
    }
    let At { path, depth } = rpc::read(message)?;
    let path = rpc::path(entered, &user, &path).await?;
    match call {
        "Stat" => entry(&files, &path).await,
        "MakeDir" => match files.make_directories(&path).await? {
            0 => Err(RpcFailure::new(
                Code::AlreadyExists,
                format!("directory already exists: {path}"),
            )),
            _ => entry(&files, &path).await,
        },
        "ListDir" => list(&files, &path, depth.unwrap_or(1)).await,
        "Remove" => match files.remove_all(&path).await {
            // Nothing is what was wanted.
            Err(GuestError::Failed {
                kind: FailureKind::NotFound,
                ..
            })
            | Ok(_) => Ok(json!({})),
            Err(error) => Err(error.into()),
        },
        _ => Err(RpcFailure::new(
            Code::Unimplemented,
            format!("filesystem.Filesystem has no call {call:?} here"),
        )),
    }
}

async fn entry(files: &Files<'_>, path: &str) -> Result<Value, RpcFailure> {
    let info = files.symlink_metadata(path).await?;
    Ok(json!({ "entry": entries::entry(files, &info).await }))
}

async fn list(files: &Files<'_>, path: &str, depth: u32) -> Result<Value, RpcFailure> {
    let of = files.metadata(path).await?;
    if of.kind != FileKind::Directory {
        let text = format!("path is not a directory: {path}");
        return Err(RpcFailure::invalid(text));
    }
    let found = files.list_deep(path, depth.max(1)).await?;
    let entries = entries::all(files, &found).await;
    Ok(match entries.is_empty() {
        true => json!({}),
        false => json!({ "entries": entries }),
    })
}
